"""Client.start_orchestration: inside the caller's transaction, with a policy for ids that exist."""

from __future__ import annotations

import threading

import pytest
from django.db import DatabaseError, connections, transaction

from duroxide_django import (
    Client,
    ClientError,
    InstanceAlreadyExists,
    InvalidArgument,
    OrchestrationCancelled,
    wakeups,
)
from duroxide_django.registry import default_registry
from duroxide_django.storage import client_reads
from duroxide_django.storage.database import Database
from example_project.shop.workflows import checkout
from tests.runtime.program import failing_transaction


@pytest.fixture(autouse=True)
def echo(program):
    @program.orchestration("Echo")
    def echo(ctx, input):
        ctx.set_custom_status("echoing")
        ctx.set_kv_value("heard", str(input))
        return input
        yield

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))


class TestStart:
    def test_returns_the_instance_id(self, client):
        """The caller gets the id back that it chose."""
        assert client.start_orchestration("echo-1", "Echo") == "echo-1"

    def test_gives_the_function_its_input(self, client, program):
        """Any JSON value arrives as it was sent."""
        value = {"text": "häßlich ☃ 🎉", "numbers": [1, 2.5, 10**30], "nothing": None, "yes": True}
        client.start_orchestration("echo-1", "Echo", value)
        program.drain()
        assert client.get_status("echo-1").output == value

    def test_gives_none_without_an_input(self, client, program):
        """Left out, the input is None; an empty text stays an empty text."""
        client.start_orchestration("none", "Echo")
        client.start_orchestration("empty", "Echo", "")
        program.drain()
        assert client.get_status("none").output is None
        assert client.get_status("empty").output == ""

    def test_exists_at_once(self, client):
        """Before any worker saw it, the instance is there and counts as running."""
        client.start_orchestration("echo-1", "Echo")
        assert client.get_status("echo-1").status == "Running"
        assert client.list_all_instances() == ["echo-1"]

    def test_takes_a_decorated_function_for_its_name(self, client):
        """A function registered by @orchestration may stand where the name stands."""
        client.start_orchestration("order-1", checkout, {})
        assert client.get_instance_info("order-1").orchestration_name == "Checkout"

    def test_needs_no_registered_code(self, client):
        """A web process without the workflow's code may start it; a worker that has it will run it."""
        client.start_orchestration("far-1", "OnlyOnTheWorkers")
        assert client.get_status("far-1").status == "Running"

    def test_warns_once_of_a_name_that_this_project_does_not_have(self, backend, caplog, monkeypatch):
        """A slip of the pen shows in the log of the process that made it, with the name that was meant."""
        monkeypatch.setattr("duroxide_django.client._looked_up", set())
        monkeypatch.setattr(default_registry, "orchestrations", {})
        Client().start_orchestration("far-1", "Chekout")
        assert caplog.messages == []  # A process without workflows knows no names.
        default_registry.add_orchestration("Checkout", lambda ctx, input: None)
        Client().start_orchestration("far-2", "Chekout")
        Client().start_orchestration("far-3", "Chekout")
        Client().start_orchestration("near-1", "Checkout")
        Client().start_orchestration("elsewhere-1", "OnlyOnTheWorkers")
        (message,) = caplog.messages
        assert message.startswith("Started, but no orchestration 'Chekout' is registered (did you mean 'Checkout'?)")
        assert caplog.records[0].instance_id == "far-2"
        Client().start_orchestration_versioned("near-2", "Checkout", None, "2.0.0")
        assert "orchestration 'Checkout' has no version 2.0.0 (registered: 1.0.0)" in caplog.messages[-1]

    def test_typed_twin_dumps_texts_too(self, client, program):
        """start_orchestration_typed treats its input as start_orchestration does."""
        client.start_orchestration_typed("echo-1", "Echo", "[1, 2]")
        program.drain()
        assert client.get_status("echo-1").output == "[1, 2]"


class TestStartMany:
    def test_starts_all_of_them(self, client, program):
        """One call for many instances; the ids come back in order."""
        starts = [(f"echo-{number}", "Echo", number) for number in range(50)]
        assert client.start_many(starts) == [instance_id for instance_id, _, _ in starts]
        program.drain()
        assert [client.get_status(f"echo-{number}").output for number in range(50)] == list(range(50))

    def test_of_nothing_starts_nothing(self, client, count_rows):
        """An empty list, or an exhausted generator, is fine."""
        assert client.start_many([]) == []
        assert client.start_many(entry for entry in ()) == []
        assert not any(count_rows().values())

    def test_starts_none_if_one_is_taken(self, client, backend, count_rows):
        """All or nothing: the error names the id, and the caller's transaction stays usable."""
        client.start_orchestration("echo-1", "Echo")
        before = count_rows()
        for entries in ([("new", "Echo", 1), ("echo-1", "Echo", 1)], [("twice", "Echo", 1), ("twice", "Echo", 2)]):
            with transaction.atomic(using=backend):
                with pytest.raises(InstanceAlreadyExists, match=entries[1][0]):
                    client.start_many(entries)
                assert client.get_status("echo-1").status == "Running"
        assert count_rows() == before

    @pytest.mark.parametrize("bad", [("", "Echo", 1), ("new", "", 1), ("new", "Echo", object()), ("new", "Echo"), 5])
    def test_starts_none_if_one_is_bad(self, client, count_rows, bad):
        """Checked before anything is written."""
        with pytest.raises(InvalidArgument):
            client.start_many([("good", "Echo", 1), bad])
        assert not any(count_rows().values())


class TestVersions:
    @pytest.fixture(autouse=True)
    def versions(self, program):
        for version in ("1.10.0", "1.2.0", "1.9.0"):
            program.orchestration("Versioned", version)(lambda ctx, input: ctx.orchestration_version)

    def test_starts_the_latest_by_semver(self, client, program):
        """1.10.0 is newer than 1.9.0, in whatever order they were registered."""
        client.start_orchestration("latest", "Versioned")
        program.drain()
        assert client.get_status("latest").output == "1.10.0"

    def test_starts_exactly_the_asked_version(self, client, program):
        """A versioned start takes that version although newer ones exist."""
        client.start_orchestration_versioned("pinned", "Versioned", None, "1.2.0")
        program.drain()
        assert client.get_status("pinned").output == "1.2.0"
        assert client.get_instance_info("pinned").orchestration_version == "1.2.0"

    def test_a_missing_version_waits_for_a_worker_that_has_it(self, client, program):
        """No worker serves 2.0.0 yet: the instance stays running, and completes once one does."""
        client.start_orchestration_versioned("soon", "Versioned", None, "2.0.0")
        program.drain(jump=False)
        assert client.get_status("soon").status == "Running"

        program.orchestration("Versioned", "2.0.0")(lambda ctx, input: ctx.orchestration_version)
        program.drain()
        assert client.get_status("soon").output == "2.0.0"


class TestTransaction:
    def test_commits_with_the_caller(self, client, backend, program):
        """What a committed transaction started will run."""
        with transaction.atomic(using=backend):
            client.start_orchestration("echo-1", "Echo", 1)
        program.drain()
        assert client.get_status("echo-1").output == 1

    def test_a_rollback_leaves_no_trace(self, client, backend, count_rows):
        """Start, event, message and cancel of a transaction that failed never were."""
        client.start_orchestration("old", "Waiting")
        before = count_rows()
        with failing_transaction(backend):
            client.start_orchestration("new", "Echo")
            client.raise_event("old", "go", 1)
            client.raise_event("new", "go", 1)
            client.enqueue_event("old", "inbox", 1)
            client.cancel_instance("old")
        assert count_rows() == before
        assert client.get_status("new").status == "NotFound"

    def test_the_id_is_free_again_after_a_rollback(self, client, backend, program):
        """An id that was only started by a transaction that failed can be started."""
        with failing_transaction(backend):
            client.start_orchestration("echo-1", "Echo", "lost")
        client.start_orchestration("echo-1", "Echo", "kept")
        program.drain()
        assert client.get_status("echo-1").output == "kept"

    def test_a_savepoint_rolls_back_alone(self, client, backend, program):
        """The inner block's start is gone, the outer block's start is kept."""
        with transaction.atomic(using=backend):
            client.start_orchestration("outer", "Echo", "outer")
            with failing_transaction(backend):
                client.start_orchestration("inner", "Echo", "inner")
        program.drain()
        assert client.list_all_instances() == ["outer"]
        assert client.get_status("outer").output == "outer"

    def test_sees_its_own_writes(self, client, backend, program):
        """Inside the transaction the new instance can be read, signalled and refused a second start."""
        with transaction.atomic(using=backend):
            client.start_orchestration("waiting-1", "Waiting")
            assert client.get_status("waiting-1").status == "Running"
            assert client.raise_event("waiting-1", "go", "at once") is True
            with pytest.raises(InstanceAlreadyExists):
                client.start_orchestration("waiting-1", "Waiting")
        program.drain()
        assert client.get_status("waiting-1").output == "at once"

    def test_of_another_alias_does_not_matter(self, client, program):
        """Only a transaction on the workflows' own alias is joined; others neither hold nor undo a start."""
        with failing_transaction("default"):
            client.start_orchestration("echo-1", "Echo", 1)
        program.drain()
        assert client.get_status("echo-1").output == 1

    def test_of_another_alias_is_warned_of_once(self, client, backend, program, caplog, monkeypatch):
        """The caller may believe that both commit together."""
        monkeypatch.setattr("duroxide_django.client._warned_of", set())
        other = "postgres" if backend == "sqlite" else "sqlite"
        client.start_orchestration("echo-1", "Echo")
        with transaction.atomic(using=backend):
            client.start_orchestration("echo-2", "Echo")
            with transaction.atomic(using=other):
                client.start_orchestration("echo-3", "Echo")
        assert caplog.messages == []
        with transaction.atomic(using=other):
            client.start_orchestration("waiting-1", "Waiting")
            client.raise_event("waiting-1", "go")
            transaction.on_commit(lambda: client.start_orchestration("echo-4", "Echo"), using=other)
        (message,) = caplog.messages
        assert f"inside a transaction on {other!r}, but workflows live on {backend!r}" in message

    def test_is_invisible_to_others_before_the_commit(self, client, backend):
        """Another connection sees nothing of a transaction that is still open."""
        seen = []

        def look():
            seen.append(Client(using=backend).get_status("echo-1").status)
            connections.close_all()

        with transaction.atomic(using=backend):
            client.start_orchestration("echo-1", "Echo")
            thread = threading.Thread(target=look)
            thread.start()
            thread.join(10)
        assert seen == ["NotFound"]

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_of_two_with_one_id_the_second_waits_for_the_first(self, client, backend, wait_until):
        """Whoever starts an id that a transaction is about to start hears, at its commit, that it exists."""
        heard = []

        def start():
            try:
                Client(using=backend).start_orchestration("echo-1", "Echo")
            except (ClientError, DatabaseError) as exc:
                heard.append(type(exc))
            finally:
                connections.close_all()

        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        thread = threading.Thread(target=start)
        with transaction.atomic(using=backend):
            client.start_orchestration("echo-1", "Echo")
            thread.start()
            wait_until(lambda: Database(backend).fetch(waiting)[0][0])
        thread.join(10)
        assert heard == [InstanceAlreadyExists]
        assert client.list_all_instances() == ["echo-1"]

    def test_wakes_workers_after_the_commit_only(self, client, backend):
        """Workers of this process hear of a start when it can be seen, and never of one rolled back."""
        woken = []

        def wake(what):
            woken.append((what, client.get_status("echo-1").status))

        wakeups.subscribe(backend, wake)
        try:
            with failing_transaction(backend):
                client.start_orchestration("echo-1", "Echo")
            assert woken == []
            with transaction.atomic(using=backend):
                client.start_orchestration("echo-1", "Echo")
                assert woken == []
            assert woken == [(wakeups.TURNS, "Running")]
        finally:
            wakeups.unsubscribe(backend, wake)


class TestConflict:
    def test_fails_by_default(self, client, count_rows):
        """A taken id is refused with the id in the error, and nothing is written."""
        client.start_orchestration("echo-1", "Echo", 1)
        before = count_rows()
        with pytest.raises(InstanceAlreadyExists, match="'echo-1' exists already") as caught:
            client.start_orchestration("echo-1", "Echo", 1)
        assert caught.value.instance_id == "echo-1"
        assert isinstance(caught.value, RuntimeError)
        assert count_rows() == before

    def test_the_refusal_leaves_the_transaction_usable(self, client, backend, program):
        """After InstanceAlreadyExists was caught, the same transaction goes on and commits."""
        client.start_orchestration("echo-1", "Echo", 1)
        with transaction.atomic(using=backend):
            with pytest.raises(InstanceAlreadyExists):
                client.start_orchestration("echo-1", "Echo", 2)
            client.start_orchestration("echo-2", "Echo", 2)
        program.drain()
        assert client.get_status("echo-1").output == 1
        assert client.get_status("echo-2").output == 2

    def test_ignore_is_quiet_about_the_same_start(self, client, program, count_rows):
        """The same name and input again: one instance, whether it still runs or has ended."""
        client.start_orchestration("echo-1", "Echo", {"a": 1, "b": 2})
        before = count_rows()
        assert client.start_orchestration("echo-1", "Echo", {"b": 2, "a": 1}, on_conflict="ignore") == "echo-1"
        assert count_rows() == before
        program.drain()
        client.start_orchestration("echo-1", "Echo", {"a": 1, "b": 2}, on_conflict="ignore")
        assert client.list_executions("echo-1") == [1]

    @pytest.mark.parametrize(("name", "input"), [("Waiting", 1), ("Echo", 2)])
    def test_ignore_refuses_another_start(self, client, name, input):
        """Another name or input under a taken id is a mistake, not a repetition."""
        client.start_orchestration("echo-1", "Echo", 1)
        with pytest.raises(InstanceAlreadyExists, match="another name or input"):
            client.start_orchestration("echo-1", name, input, on_conflict="ignore")

    def test_restart_terminal_leaves_children_to_their_parents(self, client, program):
        """A child that has ended belongs to its parent's tree, as with delete_instance()."""

        @program.orchestration("Above")
        def above(ctx, input):
            yield ctx.schedule_sub_orchestration_with_id("Echo", "below-1", 1)

        client.start_orchestration("above-1", "Above")
        program.drain()
        with pytest.raises(InstanceAlreadyExists, match="sub-orchestration"):
            client.start_orchestration("below-1", "Echo", 2, on_conflict="restart_terminal")
        assert client.get_instance_tree("above-1").all_ids == ["above-1", "below-1"]
        assert client.get_status("below-1").output == 1

    def test_ignore_tells_a_flag_from_a_number(self, client):
        """True and 1 are equal in Python, and different inputs."""
        client.start_orchestration("echo-1", "Echo", {"paid": 1})
        with pytest.raises(InstanceAlreadyExists, match="another name or input"):
            client.start_orchestration("echo-1", "Echo", {"paid": True}, on_conflict="ignore")

    def test_ignore_still_knows_the_input_of_a_pruned_execution(self, client, program):
        """Pruning old executions doesn't turn the same start into another one."""

        @program.orchestration("Twice")
        def twice(ctx, input):
            if input == "first":
                yield ctx.continue_as_new("second")
            return "done"

        client.start_orchestration("twice-1", "Twice", "first")
        program.drain()
        assert client.prune_executions("twice-1").executions_deleted == 1
        assert client.start_orchestration("twice-1", "Twice", "first", on_conflict="ignore") == "twice-1"

    def test_restart_terminal_begins_a_new_life(self, client, program):
        """The ended instance makes room: history, KV, custom status and versions begin anew."""
        client.start_orchestration("echo-1", "Echo", "old")
        program.drain()
        client.start_orchestration("echo-1", "Waiting", on_conflict="restart_terminal")
        program.drain()
        result = client.get_status("echo-1")
        assert (result.status, result.output, result.custom_status) == ("Running", None, None)
        assert result.custom_status_version == 0
        assert client.get_kv_all_values("echo-1") == {}
        assert [event.kind for event in client.read_execution_history("echo-1", 1)] == [
            "OrchestrationStarted",
            "ExternalSubscribed",
        ]

    def test_restart_terminal_starts_an_id_that_is_free(self, client, program):
        """Nothing to restart: an ordinary start."""
        client.start_orchestration("echo-1", "Echo", 5, on_conflict="restart_terminal")
        program.drain()
        assert client.get_status("echo-1").output == 5

    def test_restart_terminal_leaves_a_running_instance_alone(self, client, program):
        """A running instance is never replaced."""
        client.start_orchestration("waiting-1", "Waiting")
        program.drain()
        with pytest.raises(InstanceAlreadyExists, match="Running"):
            client.start_orchestration("waiting-1", "Echo", on_conflict="restart_terminal")
        client.raise_event("waiting-1", "go", "still here")
        program.drain()
        assert client.get_status("waiting-1").output == "still here"

    def test_restart_terminal_rolls_back_with_the_caller(self, client, backend, program):
        """The old life is back when the transaction that replaced it fails."""
        client.start_orchestration("echo-1", "Echo", "old")
        program.drain()
        with failing_transaction(backend):
            client.start_orchestration("echo-1", "Echo", "new", on_conflict="restart_terminal")
        assert client.get_status("echo-1").output == "old"

    def test_restart_terminal_loses_to_another_restart(self, client, backend, program, monkeypatch):
        """Two clients restart the same ended id: the later one sees the other's new life and doesn't delete it."""
        client.start_orchestration("echo-1", "Echo", "old")
        program.drain()
        real, rivals = client_reads.start_of, [Client(using=backend)]

        def look_and_lose(db, instance_id):
            found = real(db, instance_id)
            if rivals:
                rivals.pop().start_orchestration("echo-1", "Waiting", on_conflict="restart_terminal")
            return found

        monkeypatch.setattr(client_reads, "start_of", look_and_lose)
        with pytest.raises(InstanceAlreadyExists):
            client.start_orchestration("echo-1", "Echo", "mine", on_conflict="restart_terminal")
        assert client.get_instance_info("echo-1").orchestration_name == "Waiting"

    def test_restart_terminal_spares_a_child_that_still_runs(self, client, program):
        """A child that still cleans up isn't wiped with its ended parent, as delete_instance() wouldn't either."""

        @program.orchestration("Undoing")
        def undoing(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                yield ctx.wait_for_event("undone")
                raise

        @program.orchestration("Parent")
        def parent(ctx, input):
            yield ctx.race(ctx.schedule_sub_orchestration_with_id("Undoing", "child-1"), ctx.schedule_timer(10))

        client.start_orchestration("parent-1", "Parent")
        program.drain()
        assert client.get_status("parent-1").status == "Completed"
        assert client.get_status("child-1").status == "Running"
        with pytest.raises(ClientError, match="running"):
            client.start_orchestration("parent-1", "Parent", on_conflict="restart_terminal")
        assert client.get_status("child-1").status == "Running"

    def test_refuses_an_unknown_policy(self, client, count_rows):
        """The three policies are named in the error."""
        with pytest.raises(InvalidArgument, match="fail, ignore or restart_terminal, got 'replace'"):
            client.start_orchestration("echo-1", "Echo", on_conflict="replace")
        assert count_rows("duroxide_instance") == 0
