"""The replay engine: values in, values out. No Django, no clock, no I/O, no randomness of its own."""
