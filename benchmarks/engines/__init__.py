"""One adapter for each engine; its module imports the engine only inside methods, as the harness has none of them."""

import importlib

#: This project first: its figure is what the ratios are of.
OURS = "duroxide_django"
PEERS = ("duroxide", "dbos", "absurd")
#: Suffix of an engine's name: with the options that its documentation offers for speed, instead of its defaults.
TUNED = "+tuned"


def engine_class(name):
    """Return the adapter class of an engine, ``dbos`` or ``dbos+tuned``."""
    return importlib.import_module(f"benchmarks.engines.{base_name(name)}").Adapter


def base_name(name):
    """Return the engine's name without its suffix: what its environment is called."""
    return name.removesuffix(TUNED)
