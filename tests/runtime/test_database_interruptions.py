"""Deliveries that a database's failure ended: one rule for plain, async and atomic activities."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sqlite3

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, OperationalError, connections, transaction

from duroxide_django import ActivityFailed
from duroxide_django.models import ActivityTask
from duroxide_django.storage import health
from duroxide_django.storage.database import Database
from duroxide_django.testing import virtual_clock


def busy():
    """Return the error of a locked SQLite file as Django passes it on."""
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = 5
    error = OperationalError("database is locked")
    error.__cause__ = cause
    return error


@pytest.fixture(params=["plain", "async", "atomic"])
def define(request, program):
    """Define the activity "Work" of each kind by what it does in the calling thread."""

    def define(function):
        if request.param == "async":

            @program.activity("Work")
            async def work(ctx, value):
                return await sync_to_async(function)(ctx)

        else:
            program.activity("Work", atomic=request.param == "atomic")(lambda ctx, value: function(ctx))

    yield define
    # Frames of errors hold asgiref's threads.
    gc.collect()


@pytest.fixture(autouse=True)
def orchestrations(program):
    @program.orchestration("Working")
    def working(ctx, value):
        try:
            return (yield ctx.schedule_activity("Work"))
        except ActivityFailed as exc:
            return f"caught {exc}"


class TestPassingFault:
    def test_does_not_count_as_an_attempt(self, client, program, define, settings):
        """More of them than MAX_ATTEMPTS would allow deaths: the pauses grow, the count of deliveries goes on."""
        settings.DUROXIDE = {**settings.DUROXIDE, "MAX_ATTEMPTS": 10}
        moments, deliveries, attempts = [], [], []
        with virtual_clock() as clock:

            def work(ctx):
                moments.append(clock.now_ms // 1000)
                deliveries.append(ctx.delivery)
                attempts.append(ctx.attempt)
                if len(moments) < 10:
                    raise busy()
                return "done"

            define(work)
            client.start_orchestration("one", "Working")
            program.drain()
        assert client.get_status("one").output == "done"
        assert [later - sooner for sooner, later in itertools.pairwise(moments)] == [
            1, 2, 4, 8, 16, 32, 60, 60, 60,
        ]  # fmt: skip
        assert deliveries == list(range(1, 11))
        assert set(attempts) == {1}

    def test_in_each_delivery_is_the_result_at_last(self, client, program, define, settings):
        """While the database is well otherwise: it can be caught, and is not poison."""
        settings.DUROXIDE = {**settings.DUROXIDE, "MAX_ATTEMPTS": 3}
        deliveries = []

        def work(ctx):
            deliveries.append(ctx.delivery)
            raise busy()

        define(work)
        client.start_orchestration("one", "Working")
        program.drain()
        assert client.get_status("one").output == "caught OperationalError: database is locked"
        assert deliveries == [1, 2, 3]

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_read_only_transaction_is_retried(self, client, program, define, backend):
        """What a switched-over primary answers."""
        deliveries = []

        def work(ctx):
            deliveries.append(ctx.delivery)
            if len(deliveries) == 1:
                with transaction.atomic(using=backend), connections[backend].cursor() as cursor:
                    cursor.execute("SET TRANSACTION READ ONLY")
                    cursor.execute("DELETE FROM duroxide_kv")
            return "done"

        define(work)
        client.start_orchestration("one", "Working")
        program.drain()
        assert client.get_status("one").output == "done"
        assert deliveries == [1, 2]

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_own_connection_lost_in_each_delivery(self, client, start_runtime, define, backend, settings):
        """The error is its result once the bound is reached, also of an activity that is atomic."""
        settings.DUROXIDE = {**settings.DUROXIDE, "MAX_ATTEMPTS": 2}
        deliveries = []

        def work(ctx):
            deliveries.append(ctx.delivery)
            with connections[backend].cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        define(work)
        start_runtime()
        client.start_orchestration("one", "Working")
        result = client.wait_for_orchestration("one", 30_000)
        assert result.output.startswith("caught OperationalError: ")
        assert deliveries == [1, 2]

    def test_of_a_database_that_is_away_never_is_the_result(self, client, program, define, monkeypatch, settings):
        """However often: nobody could do anything with it."""
        settings.DUROXIDE = {**settings.DUROXIDE, "MAX_ATTEMPTS": 2}
        monkeypatch.setattr("duroxide_django.runtime.execute.is_well", lambda connection: len(deliveries) > 6)
        deliveries = []

        def work(ctx):
            deliveries.append(ctx.delivery)
            if len(deliveries) < 6:
                raise busy()
            return "done"

        define(work)
        client.start_orchestration("one", "Working")
        program.drain()
        assert client.get_status("one").output == "done"

    def test_leaves_the_caller_s_transaction_whole(self, client, program, define, backend):
        """drain() in a test case: a statement that failed must not break what follows."""
        deliveries = []

        def work(ctx):
            deliveries.append(ctx.delivery)
            if len(deliveries) == 1:
                with contextlib.suppress(DatabaseError), connections[backend].cursor() as cursor:
                    cursor.execute("SELECT no_such_column")
                raise busy()
            return "done"

        define(work)
        with transaction.atomic(using=backend):
            client.start_orchestration("one", "Working")
            program.drain()
            assert client.get_status("one").output == "done"
        connections[backend].rollback_exc = None

    def test_is_shown_as_retrying_for_the_database(self, client, program, define, backend):
        """By the doctor and on the instance, with its error."""

        def work(ctx):
            raise busy()

        define(work)
        client.start_orchestration("one", "Working")
        program.drain(jump=False)
        (finding,) = [found for found in health.examine(Database(backend)) if found.rule == "retrying_for_database"]
        assert (finding.instance_id, finding.severity) == ("one", "warning")
        assert "OperationalError: database is locked" in finding.why
        (waiting,) = client.list_pending("one")
        assert "retrying for the database" in waiting.detail
        task = ActivityTask.objects.using(backend).get()
        assert (task.attempts, task.interruptions) == (0, 1)
        client.retry_activity_now("one", task.event_id)
        assert ActivityTask.objects.using(backend).get().interruptions == 0
