"""``atomic=True``: the activity's writes and its completion commit together, or not at all (design 7)."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connections, transaction

from duroxide_django import ActivityFailed


@pytest.fixture
def groups(backend):
    """The names written so far; groups stand for any table of the project."""
    Group.objects.using(backend).all().delete()
    return lambda: sorted(Group.objects.using(backend).values_list("name", flat=True))


@pytest.fixture(autouse=True)
def workflows(program, backend):
    def write(name):
        Group.objects.using(backend).create(name=name)

    program.write = write

    @program.activity("Write", atomic=True)
    def write_activity(ctx, name):
        write(f"{name}-{ctx.delivery}")
        return f"wrote {name}"

    @program.activity("WriteAndBreak", atomic=True)
    def write_and_break(ctx, name):
        write(name)
        raise ValueError("after the write")

    @program.activity("WriteAndBreakPlainly")
    def write_and_break_plainly(ctx, name):
        write(name)
        raise ValueError("after the write")

    @program.orchestration("Calling")
    def calling(ctx, call):
        try:
            return (yield ctx.schedule_activity(*call))
        except ActivityFailed as exc:
            return str(exc)


@pytest.fixture(params=["runtime", "drain"])
def result_of(request, client, program, start_runtime):
    """Run one activity by a worker or under drain(); return the orchestration's output."""

    def result_of(name, argument):
        client.start_orchestration("calling-1", "Calling", [name, argument])
        if request.param == "runtime":
            start_runtime()
            client.wait_for_orchestration("calling-1")
        else:
            program.drain()
        return client.get_status("calling-1").output

    return result_of


class TestCommit:
    def test_writes_and_completion_appear_together(self, result_of, groups):
        """The writes are there when the result is."""
        assert result_of("Write", "one") == "wrote one"
        assert groups() == ["one-1"]

    def test_the_function_runs_inside_a_transaction(self, program, backend, result_of):
        """Row locks and on_commit work as in any atomic block."""
        seen = []

        @program.activity("Look", atomic=True)
        def look(ctx, input):
            seen.append(connections[backend].in_atomic_block)
            transaction.on_commit(lambda: seen.append("committed"), using=backend)

        result_of("Look", None)
        assert seen == [True, "committed"]

    def test_starts_and_signals_of_the_activity_commit_with_it(self, client, program, backend, result_of):
        """What the activity does through its client belongs to the same transaction."""

        @program.activity("StartTwo", atomic=True)
        def start_two(ctx, fails):
            ctx.get_client().start_orchestration("started-1", "Nobody")
            if fails:
                raise ValueError("rolled back")

        assert result_of("StartTwo", True) == "ValueError: rolled back"
        assert client.get_status("started-1").status == "NotFound"


class TestRollback:
    def test_of_an_activity_that_raises(self, result_of, groups):
        """The failure is recorded, the writes are not there."""
        assert result_of("WriteAndBreak", "lost") == "ValueError: after the write"
        assert groups() == []

    def test_is_not_what_plain_activities_do(self, result_of, groups):
        """A plain activity's writes stand on their own."""
        assert result_of("WriteAndBreakPlainly", "kept") == "ValueError: after the write"
        assert groups() == ["kept"]

    def test_of_an_activity_whose_result_can_not_be_stored(self, program, result_of, groups):
        """A result that JSON can't carry fails the activity and takes its writes back."""

        @program.activity("Opaque", atomic=True)
        def opaque(ctx, name):
            program.write(name)
            return object()

        assert "not JSON serializable" in result_of("Opaque", "lost")
        assert groups() == []

    def test_of_an_activity_with_a_database_error(self, program, groups, result_of):
        """A broken constraint fails the activity; the worker's connection is fine afterwards."""

        @program.activity("Twice", atomic=True)
        def twice(ctx, name):
            program.write(name)
            program.write(name)

        assert result_of("Twice", "double").startswith("IntegrityError")
        assert groups() == []

    def test_of_an_activity_that_catches_its_database_error(self, program, backend, groups, result_of):
        """A savepoint inside the activity works as usual."""

        @program.activity("Careful", atomic=True)
        def careful(ctx, name):
            program.write(name)
            try:
                with transaction.atomic(using=backend):
                    program.write(name)
            except IntegrityError:
                return "only once"

        assert result_of("Careful", "single") == "only once"
        assert groups() == ["single"]


class TestExactlyOnce:
    def test_a_lost_lease_rolls_the_writes_back(self, client, program, start_runtime, gate, backend, groups):
        """The lease was lost meanwhile: the first run writes nothing, the second one counts."""
        lost = []

        @program.activity("LoseLease", atomic=True)
        def lose_lease(ctx, name):
            program.write(f"{name}-{ctx.delivery}")
            if ctx.delivery == 1:
                # As if another worker had taken the row: in this transaction, so that it works on SQLite too.
                lost.append(True)
                _take_lease_away(backend)
            return ctx.delivery

        start_runtime(worker_lock_timeout_ms=600)
        client.start_orchestration("calling-1", "Calling", ["LoseLease", "one"])
        assert client.wait_for_orchestration("calling-1", 20_000).output == 2
        assert lost == [True]
        assert groups() == ["one-2"]

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)  # SQLite's only writer is the activity itself
    def test_a_cancelled_activity_writes_nothing(self, client, program, start_runtime, gate, groups, wait_until):
        """Its instance was cancelled while it ran: the transaction is rolled back at its end."""

        @program.activity("Held", atomic=True)
        def held(ctx, name):
            program.write(name)
            gate.wait()

        runtime = start_runtime()
        client.start_orchestration("calling-1", "Calling", ["Held", "lost"])
        gate.wait_entered()
        client.cancel_instance("calling-1", "no")
        assert client.wait_for_orchestration("calling-1").error == "canceled: no"
        gate.open()
        runtime.shutdown()
        assert groups() == []

    def test_many_are_written_once_each(self, client, program, start_runtime, groups):
        """Two workers, many activities: no write is lost or doubled."""

        @program.orchestration("Many")
        def many(ctx, count):
            yield ctx.all([ctx.schedule_activity("Write", f"n{number:02}") for number in range(count)])

        start_runtime(worker_concurrency=2)
        start_runtime(worker_concurrency=2)
        client.start_orchestration("many-1", "Many", 30)
        client.wait_for_orchestration("many-1")
        assert groups() == [f"n{number:02}-1" for number in range(30)]


def _take_lease_away(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("UPDATE duroxide_activity_task SET lease_token = 1")
