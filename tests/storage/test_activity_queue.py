"""The worker queue in the database: leases, tokens, and what a late worker may still do (spec 13.4)."""

from __future__ import annotations

import pytest

from duroxide_django import RuntimeOptions
from duroxide_django.engine import messages
from duroxide_django.models import ActivityTask, Message
from duroxide_django.storage import activities
from duroxide_django.storage.activities import Finished, Wanted
from duroxide_django.storage.database import Database

EVERYTHING = Wanted(
    limit=10,
    names=["A", "B"],
    untagged=True,
    tags=None,
    owner="me",
    session_lease_ms=30_000,
    sessions_in_flight=[],
    new_sessions=10,
)


@pytest.fixture
def database(backend):
    return Database(backend)


@pytest.fixture
def schedule(client, program):
    """Put activities into the queue: ``schedule("A", "B")``; a pair gives name and tag."""

    @program.orchestration("Scheduling")
    def scheduling(ctx, wanted):
        tasks = [ctx.schedule_activity(name, tag=tag, session_id=session) for name, tag, session in wanted]
        yield ctx.all(tasks)

    def schedule(*names, tag=None, session=None):
        client.start_orchestration(f"scheduling-{names}-{tag}", "Scheduling", [[name, tag, session] for name in names])
        program.drain(options=RuntimeOptions(worker_concurrency=0))

    return schedule


@pytest.fixture
def fetch(database):
    """Fetch with some of the wishes replaced."""
    from dataclasses import replace

    def fetch(*, lease_ms=30_000, worker="me", **wishes):
        return activities.fetch(database, replace(EVERYTHING, **wishes), lease_ms=lease_ms, worker=worker)

    return fetch


def names(tasks):
    return [task.name for task in tasks]


class TestFetch:
    def test_takes_the_oldest_first(self, schedule, fetch):
        """In the order of scheduling, as many as wanted."""
        schedule("B", "A", "A")
        assert names(fetch(limit=2)) == ["B", "A"]
        assert names(fetch(limit=2)) == ["A"]
        assert fetch() == []

    def test_takes_only_what_it_has_functions_for(self, schedule, fetch):
        """Other activities are left in the queue."""
        schedule("Unknown", "A")
        assert names(fetch(names=["A"])) == ["A"]
        assert fetch(names=[]) == []
        assert names(fetch(names=["Unknown"])) == ["Unknown"]

    def test_takes_only_the_tags_it_serves(self, schedule, fetch):
        """Untagged ones, some tags, or all of them."""
        schedule("A")
        schedule("B", tag="gpu")
        assert fetch(untagged=False, tags=[]) == []
        assert fetch(untagged=False, tags=["eu"]) == []
        assert names(fetch(untagged=True, tags=[])) == ["A"]
        assert names(fetch(untagged=False, tags=None)) == ["B"]

    def test_tells_everything_the_activity_needs(self, schedule, fetch):
        """Whose it is, its input, its place in the history, and how often it was delivered."""
        schedule("A", tag="gpu", session="s")
        (task,) = fetch()
        assert (task.instance_id, task.orchestration_name, task.orchestration_version) == (
            "scheduling-('A',)-gpu",
            "Scheduling",
            "1.0.0",
        )
        assert (task.execution_id, task.event_id, task.input, task.attempts) == (1, 2, "null", 1)
        assert (task.tag, task.session_id) == ("gpu", "s")

    def test_of_one_worker_is_invisible_to_others(self, schedule, fetch, backend):
        """A leased activity is nobody else's; the holder's name is shown."""
        schedule("A")
        assert names(fetch(worker="first")) == ["A"]
        assert fetch(worker="second") == []
        assert ActivityTask.objects.using(backend).get().worker == "first"

    def test_takes_over_a_lease_that_ran_out(self, schedule, fetch):
        """The next delivery is counted and has a token of its own."""
        schedule("A")
        (first,) = fetch(lease_ms=0)
        (second,) = fetch()
        assert (first.id, first.attempts, second.attempts) == (second.id, 1, 2)
        assert first.token != second.token


class TestLease:
    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_is_renewed_though_a_transaction_has_locked_another(self, database, schedule, fetch, backend, holder):
        """A view that deletes an instance and takes its time must not cost the others their leases."""
        schedule("A", "B")
        locked, free = fetch(lease_ms=10_000)
        holder.execute("SELECT 1 FROM duroxide_activity_task WHERE id = %s FOR UPDATE", [locked.id])
        database.execute("SET statement_timeout = 5000")
        try:
            assert activities.renew(database, [locked, free], lease_ms=60_000) == {locked.id, free.id}
            activities.record_progress(database, [(locked, '"half"'), (free, '"half"')])
        finally:
            database.execute("RESET statement_timeout")
        holder.rollback()
        rows = {row.id: row for row in ActivityTask.objects.using(backend).all()}
        assert rows[free.id].lease_until_ms > rows[locked.id].lease_until_ms + 40_000
        assert (rows[locked.id].progress, rows[free.id].progress) == (None, '"half"')

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_of_a_locked_row_is_left_for_later(self, database, schedule, fetch, backend, holder):
        """What the loop does with activities waits for nobody: it learns which are left."""
        schedule("A", "B")
        locked, free = fetch(lease_ms=10_000)
        holder.execute("SELECT 1 FROM duroxide_activity_task WHERE id = %s FOR UPDATE", [locked.id])
        database.execute("SET statement_timeout = 5000")
        try:
            activities.record_deadlines(database, [(locked, 1_000), (free, 1_000)])
            rows = {row.id: row.deadline_ms for row in ActivityTask.objects.using(backend).all()}
            assert rows[locked.id] is None
            assert rows[free.id] is not None
            assert activities.release(database, [locked, free]) == [locked]
        finally:
            database.execute("RESET statement_timeout")
        holder.rollback()
        assert activities.release(database, [locked, free]) == []
        assert set(ActivityTask.objects.using(backend).values_list("attempts", "lease_token")) == {(0, None)}

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_that_nobody_took_in_time_waits_for_no_lock(self, database, schedule, backend, holder):
        schedule("A", "B")
        first = ActivityTask.objects.using(backend).order_by("id")[0].id
        ActivityTask.objects.using(backend).update(start_by_ms=1)
        holder.execute("SELECT 1 FROM duroxide_activity_task WHERE id = %s FOR UPDATE", [first])
        database.execute("SET statement_timeout = 5000")
        try:
            assert activities.expire_unstarted(database) == 1
        finally:
            database.execute("RESET statement_timeout")
        holder.rollback()
        assert activities.expire_unstarted(database) == 1
        assert not ActivityTask.objects.using(backend).exists()

    def test_is_renewed_by_its_holder_only(self, database, schedule, fetch, backend):
        """A stale token renews nothing, and learns that it isn't wanted any more."""
        schedule("A")
        (stale,) = fetch(lease_ms=0)
        (fresh,) = fetch(lease_ms=1_000)
        before = ActivityTask.objects.using(backend).get().lease_until_ms
        assert activities.renew(database, [stale], lease_ms=60_000) == set()
        assert ActivityTask.objects.using(backend).get().lease_until_ms == before
        assert activities.renew(database, [fresh], lease_ms=60_000) == {fresh.id}
        assert ActivityTask.objects.using(backend).get().lease_until_ms > before
        assert activities.still_wanted(database, [stale]) == set()
        assert activities.still_wanted(database, [fresh]) == {fresh.id}

    def test_of_a_deleted_row_is_not_wanted(self, database, schedule, fetch, backend):
        """An activity that was cancelled is gone from the table."""
        schedule("A", "B")
        first, second = fetch()
        ActivityTask.objects.using(backend).filter(pk=first.id).delete()
        assert activities.still_wanted(database, [first, second]) == {second.id}

    def test_can_be_given_back_without_counting(self, database, schedule, fetch):
        """Released by a worker that stops: the next delivery has the same number."""
        schedule("A")
        (first,) = fetch()
        activities.release(database, [first])
        (again,) = fetch()
        assert again.attempts == first.attempts == 1

    def test_given_back_after_an_error_counts(self, database, schedule, fetch, backend):
        """A failed delivery counts, waits, and leaves its error for the operator."""
        schedule("A")
        (first,) = fetch()
        activities.release(database, [first], delay_ms=60_000, error="it broke")
        assert fetch() == []
        row = ActivityTask.objects.using(backend).get()
        assert (row.attempts, row.last_error, row.lease_token) == (1, "it broke", None)

    def test_of_another_worker_is_not_given_back(self, database, schedule, fetch):
        """A stale worker can't release what is somebody else's now."""
        schedule("A")
        (stale,) = fetch(lease_ms=0)
        (fresh,) = fetch()
        activities.release(database, [stale])
        assert activities.still_wanted(database, [fresh]) == {fresh.id}


@pytest.fixture
def complete(database):
    """Complete tasks with a result; return those whose completion was accepted."""

    def complete(*tasks, result="1"):
        finished = [Finished(task=task, kind=messages.ACTIVITY_COMPLETED, payload=result) for task in tasks]
        return [accepted.task for accepted in activities.complete(database, finished)]

    return complete


class TestCompletion:
    def test_removes_the_row_and_enqueues_a_message(self, complete, schedule, fetch, backend):
        """Both in one go."""
        schedule("A")
        (task,) = fetch()
        assert complete(task, result="42") == [task]
        assert not ActivityTask.objects.using(backend).exists()
        message = Message.objects.using(backend).get()
        assert (message.kind, message.event_id, message.payload) == ("ActivityCompleted", task.event_id, "42")

    def test_of_a_lost_lease_is_void(self, complete, schedule, fetch, backend):
        """The late worker's result reaches nobody; the new holder's does."""
        schedule("A")
        (stale,) = fetch(lease_ms=0)
        (fresh,) = fetch()
        assert complete(stale, result='"stale"') == []
        assert not Message.objects.using(backend).exists()
        assert complete(fresh, result='"fresh"') == [fresh]
        assert Message.objects.using(backend).get().payload == '"fresh"'

    def test_counts_once(self, complete, schedule, fetch, backend):
        """The same completion again has no effect."""
        schedule("A")
        (task,) = fetch()
        assert complete(task) == [task]
        assert complete(task) == []
        assert Message.objects.using(backend).count() == 1

    def test_of_two_deliveries_at_once_counts_the_one_that_holds_the_lease(self, complete, schedule, fetch, backend):
        """One process has run the same activity twice: only the later delivery's result is taken."""
        schedule("A")
        (stale,) = fetch(lease_ms=0)
        (fresh,) = fetch()
        assert complete(stale, fresh) == [fresh]
        assert Message.objects.using(backend).count() == 1

    def test_of_several_is_decided_one_by_one(self, complete, schedule, fetch):
        """A lost lease among them doesn't matter to the others."""
        schedule("A", "B", "A")
        stale = fetch(lease_ms=0, limit=1)
        _taken_over, *others = fetch()
        assert complete(*stale, *others) == others

    def test_on_a_lease_that_merely_ran_out_counts(self, complete, schedule, fetch):
        """Nobody took the activity meanwhile: the late result is as good as any."""
        schedule("A")
        (task,) = fetch(lease_ms=0)
        assert complete(task) == [task]
