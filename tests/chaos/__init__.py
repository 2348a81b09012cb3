"""Chaos: real workers on real databases, killed, frozen and cut off while they work."""
