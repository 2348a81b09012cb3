"""A database without tables, of each kind, under an alias of its own."""

from __future__ import annotations

import uuid

import pytest
from django.db import connections


def add_alias(name, settings_dict):
    """Register a database alias; the opposite is ``drop_alias``."""
    connections.databases[name] = settings_dict
    return name


def drop_alias(name):
    connections[name].close()
    del connections[name]
    del connections.databases[name]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_alias(request, database_access, django_db_setup, tmp_path):
    """An alias whose database holds no tables: a new SQLite file, or a new schema."""
    like = connections[request.param].settings_dict
    name = f"empty_{request.param}"
    if request.param == "sqlite":
        yield add_alias(name, {**like, "NAME": str(tmp_path / "empty.sqlite3")})
        drop_alias(name)
        return
    schema = f"empty_{uuid.uuid4().hex[:12]}"
    with connections["postgres"].cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {schema}")
    yield add_alias(name, {**like, "OPTIONS": {**like["OPTIONS"], "options": f"-c search_path={schema}"}})
    drop_alias(name)
    with connections["postgres"].cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {schema} CASCADE")
