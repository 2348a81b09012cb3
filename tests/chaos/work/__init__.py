"""The app that the workers of a chaos run serve."""
