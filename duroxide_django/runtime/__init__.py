"""Loops, threads, processes and leases."""
