"""PostgreSQL writes a new entry into every index of a table when an update changes a column of any of them."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from duroxide_django.engine.registry import Registry
from duroxide_django.storage.database import Database
from duroxide_django.testing import drain


def waits(ctx, _):
    ctx.set_custom_status("waiting")
    yield ctx.wait_for_event("go")
    yield ctx.wait_for_event("on")


registry = Registry()
registry.add_orchestration("Waits", waits)


@pytest.fixture
def row(backend):
    """Return the only instance's row."""
    db = Database(backend)

    def row():
        with db._cursor() as cursor:
            cursor.execute("SELECT * FROM duroxide_instance")
            (values,) = cursor.fetchall()
            return dict(zip((column[0] for column in cursor.description), values, strict=True))

    return row


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_no_turn_but_the_last_changes_a_column_that_an_index_of_the_instances_has(client, backend, row):
    indexes = [text for (text,) in Database(backend).fetch("SELECT indexdef FROM pg_indexes WHERE tablename = %s "
        "AND schemaname = current_schema()", ["duroxide_instance"])]  # fmt: skip
    used = {word for index in indexes for word in re.findall(r"\w+", index.partition(" USING ")[2])}
    rows = []
    client.start_orchestration("one", "Waits")
    rows.append(row())
    drain(using=backend, registry=registry, jump=False)
    rows.append(row())
    client.raise_event("one", "go")
    drain(using=backend, registry=registry, jump=False)
    rows.append(row())
    assert rows[-1]["turns"] == 2
    changed = {name for before, after in pairwise(rows) for name in after if before[name] != after[name]}
    # A claim takes and gives back the lease in between.
    changed |= {"lease_token", "lease_until_ms", "attempts"}
    assert {"version", "last_event_id", "custom_status"} <= changed
    assert {"instance_id", "name", "status"} <= used
    assert changed & used == set()


def test_an_instance_is_pending_for_people_until_its_first_turn(client, backend):
    from duroxide_django.storage import overview
    from duroxide_django.storage.overview import Filters

    db = Database(backend)

    def listed(state):
        return [(row.instance_id, row.status) for row in overview.instances(db, Filters(state=state), size=10)]

    client.start_orchestration("one", "Waits")
    assert client.get_status("one").status == "Running"
    assert (listed("pending"), listed("running"), listed("open")) == ([("one", "Pending")], [], [("one", "Pending")])
    drain(using=backend, registry=registry, jump=False)
    assert (listed("pending"), listed("running"), listed("open")) == ([], [("one", "Running")], [("one", "Running")])


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_equality_and_beginnings_of_an_instance_id_are_found_by_one_index(client, backend):
    indexes = Database(backend).fetch(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'duroxide_instance' AND schemaname = current_schema() "
        "AND indexdef ~ '[(]instance_id'"
    )
    assert [name for (name,) in indexes] == ["duroxide_instance_instance_id"]
