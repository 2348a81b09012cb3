"""The worker that leads reads fresh messages without leasing their instances (design 6); each turn counts once."""

from __future__ import annotations

import sys

import pytest
from django.db import OperationalError

from duroxide_django.engine.registry import Registry
from duroxide_django.models import ActivityTask, HistoryEvent, Instance, Message
from duroxide_django.runtime.claiming import FRESH_MS, PATIENCE_MS
from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.dispatcher import OVERTAKEN_MS
from duroxide_django.runtime.loop import Loop
from duroxide_django.storage import turns
from duroxide_django.storage.database import Database
from tests.runtime.program import make_dispatcher, take_for_quick, work

KNOWN = ["Sum@", "Sum@1.0.0"]


@pytest.fixture
def database(backend):
    return Database(backend)


@pytest.fixture
def fresh(database):
    """Read what needs no lease, with some of the conditions replaced."""

    def fresh(**conditions):
        usual = {
            "limit": 10,
            "max_bytes": 2**20,
            "known": KNOWN,
            "grace_ms": 0,
            "since_ms": 0,
            "within_ms": sys.maxsize,
            "is_quick": lambda claimed: True,
        }
        return turns.read_fresh(database, **{**usual, **conditions})

    return fresh


class TestReading:
    def test_gives_instances_with_their_messages(self, client, fresh, backend):
        """As a claim and its messages would; nothing is written."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        client.start_orchestration("sum-2", "Sum", [3, 4])
        client.raise_event("sum-1", "go", "on")
        found = fresh()
        assert [(claimed.instance_id, claimed.token, claimed.attempts) for claimed in found.claimed] == [
            ("sum-1", None, 0),
            ("sum-2", None, 0),
        ]
        kinds = [[message.kind for message in found.batches[claimed.key]] for claimed in found.claimed]
        assert kinds == [["StartOrchestration", "ExternalRaised"], ["StartOrchestration"]]
        assert found.now_ms > 0
        assert not Instance.objects.using(backend).exclude(lease_token=None).exists()

    def test_of_nothing_gives_nothing(self, fresh):
        """That is no reason to claim."""
        found = fresh()
        assert (found.claimed, found.batches, found.now_ms) == ([], {}, 0)

    def test_leaves_leased_instances_out(self, client, fresh, database):
        """They are another worker's."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        turns.claim(database, limit=1, lease_ms=30_000, known=KNOWN)
        client.start_orchestration("sum-2", "Sum", [1, 2])
        assert [claimed.instance_id for claimed in fresh().claimed] == ["sum-2"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"attempts": 1},
            {"blocked": '{"reason": "missing_code"}'},
            {"status": "Completed"},
        ],
        ids=["tried before", "blocked", "ended"],
    )
    def test_of_an_instance_in_trouble_asks_for_a_lease(self, client, fresh, backend, changes):
        """Its attempts are to be counted, and who writes why it can't go on must hold it."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        client.start_orchestration("sum-2", "Sum", [1, 2])
        Instance.objects.using(backend).filter(instance_id="sum-2").update(**changes)
        assert fresh() is None

    def test_of_messages_from_before_the_worker_asks_for_a_lease(self, client, fresh, database):
        """One of them may have killed the worker before."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        assert fresh(since_ms=database.now_ms() + 1) is None
        assert fresh(since_ms=database.now_ms() - 60_000) is not None

    def test_of_messages_that_wait_for_long_asks_for_a_lease(self, client, fresh):
        """Other workers have begun to look at them."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        assert fresh(within_ms=0) is None

    def test_of_many_asks_for_a_lease(self, client, fresh):
        """What is read is all that there is, or none of it."""
        for number in range(3):
            client.start_orchestration(f"sum-{number}", "Sum", [1, 2])
        assert fresh(limit=3) is None
        assert len(fresh(limit=4).claimed) == 3

    def test_of_one_that_may_take_long_asks_for_a_lease(self, client, fresh):
        """Two workers would compute it at the same time."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        assert fresh(is_quick=lambda claimed: claimed.name != "Sum") is None


@pytest.fixture
def ran():
    return []


@pytest.fixture
def registry(ran):
    registry = Registry()

    def add(ctx, pair):
        ran.append(ctx.instance_id)
        return sum(pair)

    def add_up(ctx, pair):
        return (yield ctx.schedule_activity("Add", pair))

    registry.add_activity("Add", add)
    registry.add_orchestration("Sum", add_up)
    return registry


@pytest.fixture
def make_worker(registry, backend):
    """Return a dispatcher that takes Sum for quick, needs no lease for what is fresh, and has free slots."""

    def make():
        dispatcher = make_dispatcher(registry, Database(backend))
        # Nothing is queued: what it schedules has a slot at once.
        dispatcher.fetcher.fetch(1, relaxed=False)
        dispatcher.claimer.fresh_ms = sys.maxsize
        take_for_quick(dispatcher, "Sum")
        return dispatcher

    return make


class TestTurns:
    def test_are_committed_once(self, client, make_worker, ran, monkeypatch):
        """From the start to the result, without a claim."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        monkeypatch.setattr(turns, "claim", None)
        work(make_worker())
        assert client.get_status("sum-1").output == 3
        assert ran == ["sum-1"]

    def test_of_two_workers_count_once(self, client, make_worker, ran, backend):
        """Both read the message and compute the turn; the second commit is refused, and its activity never runs."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        first, second = make_worker(), make_worker()
        for dispatcher in (first, second):
            dispatcher.fetches = False
            dispatcher.iterate()
            assert [item.commit.claimed.instance_id for item in dispatcher.pending] == ["sum-1"]
        for dispatcher in (first, second):
            dispatcher.claims = dispatcher.fetches = False
            dispatcher.iterate()
        assert HistoryEvent.objects.using(backend).count() == 2
        assert ActivityTask.objects.using(backend).count() == 1
        assert (len(first.slots.held), len(second.slots.held)) == (1, 0)
        for dispatcher in (second, first):
            work(dispatcher)
        assert client.get_status("sum-1").output == 3
        assert ran == ["sum-1"]

    def test_lose_to_a_worker_with_a_lease(self, client, make_worker, ran, database):
        """Who holds the lease goes on; the other one's turn is thrown away."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        hasty = make_worker()
        hasty.fetches = False
        hasty.iterate()
        turns.claim(database, limit=1, lease_ms=60_000, known=KNOWN)
        work(hasty)
        assert client.read_execution_history("sum-1", 1) == []
        assert ran == []

    def test_of_an_orchestration_that_takes_long_are_leased(self, client, make_worker, backend):
        """One slow turn is enough."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        dispatcher = make_worker()
        dispatcher.claimer.note_turn("Sum", 1.0)
        dispatcher.fetches = False
        dispatcher.iterate()
        assert Instance.objects.using(backend).get().lease_token is not None

    def test_that_cannot_run_are_tried_with_a_lease(self, client, make_worker, backend):
        """Then the reason is recorded, by who holds the instance."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        Instance.objects.using(backend).update(last_event_id=1)
        work(make_worker())
        assert client.get_blocked("sum-1")["reason"] == "corrupt_history"


class TestTheNextMoment:
    """What a look skipped, or what comes later, is known afterwards: nothing lies until the next poll."""

    def test_is_known_after_a_look_that_found_something(self, client, start_runtime, program):
        """Timers one after the other, and a minute between two polls."""

        @program.orchestration("Nap")
        def nap(ctx, duration_ms):
            yield ctx.schedule_timer(duration_ms)

        start_runtime(dispatcher_poll_interval_ms=60_000)
        for duration_ms in (300, 500, 700, 900):
            client.start_orchestration(f"nap-{duration_ms}", "Nap", duration_ms)
        for duration_ms in (300, 500, 700, 900):
            assert client.wait_for_orchestration(f"nap-{duration_ms}", 20_000).status == "Completed"

    @pytest.mark.parametrize("fresh_ms", [None, sys.maxsize], ids=["leased", "not leased"])
    def test_of_a_timer_is_known(self, client, make_worker, database, backend, fresh_ms):
        """With a lease or without."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        client.start_orchestration("sum-2", "Sum", [1, 2])
        later = database.now_ms() + 3_600_000
        Message.objects.using(backend).filter(instance__instance_id="sum-2").update(visible_at_ms=later)
        dispatcher = make_worker()
        dispatcher.claimer.fresh_ms = fresh_ms
        dispatcher.fetches = False
        dispatcher.iterate()
        assert [item.commit.claimed.instance_id for item in dispatcher.pending] == ["sum-1"]
        assert dispatcher.next_timer_ms == later

    def test_of_a_message_left_to_the_leader_is_known(self, client, make_worker, database, backend):
        """A worker that doesn't lead looks again when it is old enough."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        client.start_orchestration("sum-2", "Sum", [1, 2])
        now_ms = database.now_ms()
        Message.objects.using(backend).filter(instance__instance_id="sum-1").update(visible_at_ms=now_ms - 90_000)
        dispatcher = make_worker()
        dispatcher.claimer.fresh_ms, dispatcher.claimer.patience_ms = None, 60_000
        dispatcher.fetches = False
        dispatcher.iterate()
        assert [item.commit.claimed.instance_id for item in dispatcher.pending] == ["sum-1"]
        assert now_ms < dispatcher.next_timer_ms <= database.now_ms() + 60_000

    def test_own_messages_need_no_patience(self, client, make_worker, registry):
        """Nobody else was told of them."""

        def parent(ctx, pair):
            return (yield ctx.schedule_sub_orchestration("Sum", pair))

        registry.add_orchestration("Parent", parent)
        client.start_orchestration("parent-1", "Parent", [1, 2])
        dispatcher = make_worker()
        dispatcher.fetches = False
        dispatcher.iterate()
        dispatcher.claimer.fresh_ms, dispatcher.claimer.patience_ms = None, 3_600_000
        while dispatcher.iterate() | dispatcher.slots.work():
            pass
        assert client.get_status("parent-1").output == 3


class TestAFailedTransaction:
    def test_gives_its_leases_back(self, client, make_worker, ran, backend, monkeypatch):
        """The turns were written already when a later statement failed: they are free at once, not after the lease."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        dispatcher = make_worker()
        dispatcher.claimer.fresh_ms = None
        dispatcher.fetches = False
        dispatcher.iterate()

        def fails(**_):
            raise OperationalError("deadlock detected")

        with monkeypatch.context() as patched:
            patched.setattr(dispatcher, "_claim", fails)
            dispatcher.claims = True
            with pytest.raises(OperationalError):
                dispatcher.iterate()
        work(dispatcher)
        assert client.get_status("sum-1").output == 3
        assert ran == ["sum-1"]


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
class TestALockedInstance:
    """As an operator's verb locks it inside a longer transaction; its turn can't be committed meanwhile."""

    @pytest.fixture
    def locked(self, client, holder):
        client.start_orchestration("sum-1", "Sum", [1, 2])
        holder.execute("SELECT 1 FROM duroxide_instance FOR UPDATE")

    def test_lets_the_worker_rest(self, client, locked, holder, make_worker, ran):
        """It doesn't compute the same turn over and over."""
        dispatcher = make_worker()
        looks = 0
        while dispatcher.iterate() | dispatcher.slots.work():
            looks += 1
            assert looks < 10
        # Who holds the lock need not tell anybody when it lets go.
        assert dispatcher.next_timer_ms <= dispatcher.now_ms() + OVERTAKEN_MS
        assert client.read_execution_history("sum-1", 1) == []
        holder.rollback()
        work(dispatcher)
        assert client.get_status("sum-1").output == 3
        assert ran == ["sum-1"]

    def test_keeps_nobody_else(self, client, locked, make_worker, ran):
        """Others are computed as ever."""
        client.start_orchestration("sum-2", "Sum", [3, 4])
        work(make_worker())
        assert client.get_status("sum-2").output == 7
        assert ran == ["sum-2"]


class TestWhoLeads:
    """One that began earlier and has all the code leads; where code is shared in part, each takes what is due."""

    @pytest.fixture
    def arrangement(self, registry, backend):
        """Return (messages may be read without a lease for, milliseconds of patience) among other workers."""
        loop = Loop(registry, resolve(None), Database(backend))

        def arrangement(*others):
            peers = [({"runs_orchestrations": True}, {"orchestrations": code}, elder) for code, elder in others]
            loop._arrange(peers)
            return loop.dispatcher.claimer.fresh_ms, loop.dispatcher.claimer.patience_ms

        yield arrangement
        loop.slots.stop()

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ([], (sys.maxsize, 0)),
            ([({"Other": ["1.0.0"]}, True)], (sys.maxsize, 0)),
            ([({"Sum": ["1.0.0"]}, False)], (FRESH_MS, 0)),
            ([({"Sum": ["1.0.0"], "Other": ["1.0.0"]}, True)], (None, PATIENCE_MS)),
            ([({"Sum": ["2.0.0"]}, True)], (sys.maxsize, 0)),
            ([({"Sum": ["1.0.0"], "Other": ["1.0.0"]}, False)], (None, 0)),
        ],
        ids=["alone", "other code", "elder of all", "younger", "another version", "younger with more code"],
    )
    def test_depends_on_age_and_code(self, arrangement, others, expected):
        """Nobody waits for a worker that can't do the work."""
        assert arrangement(*others) == expected
