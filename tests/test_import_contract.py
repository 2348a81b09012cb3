import subprocess
import sys

import pytest


def loaded_modules(statement):
    """Return the top-level modules that a fresh interpreter has loaded after ``statement``."""
    script = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import duroxide_django.engine", "import duroxide_django"])
def test_imports_no_django(statement):
    """The engine is pure, and the package's shop window loads nothing until a name is asked for."""
    assert not loaded_modules(statement) & {"django", "structlog", "psycopg", "sqlite3"}


def test_every_module_of_the_engine_imports_no_django():
    statement = (
        "import importlib, pkgutil, duroxide_django.engine as engine\n"
        "for module in pkgutil.walk_packages(engine.__path__, 'duroxide_django.engine.'):\n"
        "    importlib.import_module(module.name)"
    )
    assert not loaded_modules(statement) & {"django", "structlog", "psycopg", "sqlite3"}
