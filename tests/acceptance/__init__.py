"""The user guide's programs, as printed, on every store."""
