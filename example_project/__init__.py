"""An example project: a small tea shop whose orders are carried out by workflows."""
