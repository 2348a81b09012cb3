import os
import subprocess
import sys
import types

import pytest

import duroxide_django
from duroxide_django import exceptions

#: What the module imports for itself.
OWN_TOOLS = {"annotations", "importlib", "Any", "TYPE_CHECKING"}


def test_all_is_sorted():
    assert list(duroxide_django.__all__) == sorted(duroxide_django.__all__)


def test_all_is_what_is_importable():
    """Every name of ``__all__`` can be imported, and nothing public can that is not listed."""
    values = {name: getattr(duroxide_django, name) for name in dir(duroxide_django)}
    public = {
        name
        for name, value in values.items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name not in OWN_TOOLS
    }
    assert public == set(duroxide_django.__all__) - {"__version__"}


@pytest.mark.parametrize("name", ["activity", "orchestration"])
def test_a_decorator_is_never_hidden_by_its_module(name):
    """Python binds a submodule to its package when it is first imported, whoever imports it."""
    script = (
        "from duroxide_django import ActivityContext, Client, Runtime\n"
        f"from duroxide_django import {name}\n"
        f"assert callable({name}), {name}"
    )
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", f"import django\ndjango.setup()\n{script}"], check=True, env=env)


def test_every_exception_is_exported():
    own = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    }
    assert own <= set(duroxide_django.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(duroxide_django, "Cilent")
