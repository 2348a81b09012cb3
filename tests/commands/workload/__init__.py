"""An app whose workflows the worker processes of these tests run."""
