"""A repair never brings back what ended the instance; where nothing can change, it says so."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from duroxide_django import NonRetryable, TaskTimeout
from duroxide_django.testing import assert_healthy, virtual_clock

MINUTE_MS = 60_000


@pytest.fixture
def mendable(program):
    """Activities that don't work until ``program.mend()`` is called; nobody serves Work until then."""
    mended = []

    def serve():
        mended.append(True)
        program.activity("Work")(lambda ctx, value: value)

    program.mend = serve

    @program.activity("Flaky")
    def flaky(ctx, value):
        if not mended:
            raise NonRetryable("down")
        return value

    @program.activity("Busy")
    def busy(ctx, value):
        if not mended:
            raise ValueError("busy")
        return value

    @program.activity("CleanUp")
    def clean_up(ctx, value):
        return value

    return program


@pytest.fixture
def flows(mendable):
    """Workflows that a time limit or a failure ends."""
    program = mendable

    @program.orchestration("Limited")
    def limited(ctx, error):
        first = yield ctx.race(ctx.schedule_activity("Work", 7), ctx.schedule_timer(MINUTE_MS))
        if first["index"] == 1:
            raise {"TimeoutError": TimeoutError, "ValueError": ValueError}[error]("too slow")
        return first["value"]

    @program.orchestration("CleansUp")
    def cleans_up(ctx, _):
        try:
            return (yield ctx.schedule_activity_with_retry("Work", 7, {"total_timeout_ms": MINUTE_MS}))
        except TaskTimeout:
            yield ctx.schedule_activity("CleanUp")
            raise

    @program.orchestration("Approval")
    def approval(ctx, _):
        first = yield ctx.race(ctx.wait_for_event("approved"), ctx.schedule_timer(MINUTE_MS))
        if first["index"] == 1:
            raise TimeoutError("nobody approved")
        return first["value"]

    @program.orchestration("Total")
    def total(ctx, call):
        name, policy = call
        return (yield ctx.schedule_activity_with_retry(name, 7, {"total_timeout_ms": MINUTE_MS, **policy}))

    @program.orchestration("RacesFlaky")
    def races_flaky(ctx, _):
        first = yield ctx.race(ctx.schedule_activity("Flaky", 7), ctx.schedule_timer(MINUTE_MS))
        return first["value"] if first["index"] == 0 else "too slow"

    @program.orchestration("Child")
    def child(ctx, _):
        return (yield ctx.schedule_activity("Flaky", 7))

    @program.orchestration("Parent")
    def parent(ctx, _):
        yield ctx.schedule_activity("CleanUp")
        return (yield ctx.schedule_sub_orchestration("Child"))

    @program.orchestration("Picky")
    def picky(ctx, _):
        if (yield ctx.wait_for_event("word")) != "please":
            raise ValueError("say please")

    return program


@pytest.fixture
def failed(client, flows):
    """Run an orchestration, under a virtual clock, until it has failed; gives its id."""

    def run(name, input=None):
        client.start_orchestration("one", name, input)
        flows.drain()
        assert client.get_status("one").status == "Failed"
        return "one"

    with virtual_clock() as clock:
        run.clock = clock
        yield run


def retry(client, one):
    return one, client.retry_instance(one)


def fork(client, one):
    return "two", client.fork_instance(one, "two")


def rewind(client, one):
    return one, client.rewind_instance(one, client.preview_fork(one).kept_events)


TIMED_OUT = [
    ("Limited", "TimeoutError"),
    ("Limited", "ValueError"),
    ("CleansUp", None),
    ("Total", ["Work", {}]),
    ("Total", ["Busy", {"max_attempts": 100, "backoff": "fixed", "initial_delay_ms": 11_000}]),
]


class TestATimeOut:
    @pytest.mark.parametrize("repair", [retry, fork, rewind])
    @pytest.mark.parametrize(("name", "given"), TIMED_OUT)
    def test_begins_again_with_its_full_time(self, client, flows, failed, backend, repair, name, given):
        """What it limited gets its chance, instead of the timer that has fired already."""
        one = failed(name, given)
        flows.mend()
        failed.clock.advance(days=1)
        repaired, rewound = repair(client, one)
        assert [timer.partition("#")[0] for timer in rewound.restarted_timers] == ["timer"]
        assert (rewound.repeats, rewound.delivered_again) == (False, [])
        assert_healthy(backend)
        before_ms = failed.clock.now_ms
        flows.drain()
        assert client.get_status(repaired).output == 7
        assert failed.clock.now_ms - before_ms <= 11_000

    @pytest.mark.parametrize("repair", [retry, fork, rewind])
    def test_that_still_finds_nothing_runs_out_again(self, client, flows, failed, repair):
        """After its full time, and not at once."""
        one = failed("Limited", "TimeoutError")
        before_ms = failed.clock.advance(days=1)
        repaired, _ = repair(client, one)
        flows.drain()
        assert client.get_status(repaired).error == "TimeoutError: too slow"
        assert failed.clock.now_ms - before_ms == MINUTE_MS

    def test_of_a_wait_gives_people_time_again(self, client, flows, failed):
        """An event can still come."""
        one = failed("Approval")
        rewound = client.retry_instance(one)
        assert len(rewound.restarted_timers) == 1
        flows.drain(jump=False)
        client.raise_event(one, "approved", "yes")
        flows.drain(jump=False)
        assert client.get_status(one).output == "yes"

    def test_is_told_by_previews_and_the_command(self, client, flows, failed, capsys):
        """Before and after."""
        one = failed("Limited", "TimeoutError")
        keep = client.preview_fork(one).kept_events
        preview = client.preview_rewind(one, keep)
        assert (preview.restarted_timers, preview.rescheduled) == (["timer#3"], ["Work#2"])
        call_command("duroxide", "retry", one, "--json")
        told = json.loads(capsys.readouterr().out)
        assert (told["restarted_timers"], told["repeats"]) == (["timer#3"], False)


class TestATimeLimitThatIsLongOver:
    @pytest.mark.parametrize("repair", [retry, fork, rewind])
    @pytest.mark.parametrize(("name", "given"), [("Total", ["Flaky", {}]), ("RacesFlaky", None)])
    def test_does_not_end_what_runs_again(self, client, flows, failed, repair, name, given):
        """The activity failed in time; a day later its limit would run out before it began."""
        one = failed(name, given)
        flows.mend()
        failed.clock.advance(days=1)
        repaired, rewound = repair(client, one)
        assert len(rewound.restarted_timers) == 1
        flows.drain(jump=False)
        assert client.get_status(repaired).output == 7

    def test_keeps_its_time_while_it_has_some(self, client, flows, failed):
        """Of one minute half is left."""
        one = failed("RacesFlaky")
        failed.clock.advance(seconds=30)
        assert client.retry_instance(one).restarted_timers == []


class TestAFailedChild:
    def test_is_not_handed_to_a_copy(self, client, flows, failed, backend):
        """A fork begins before it, and starts a child of its own; the original's stays as it is."""
        one = failed("Parent")
        flows.mend()
        forked = client.fork_instance(one, "two")
        assert (forked.delivered_again, forked.repeats) == (["CleanUp#2"], False)
        flows.drain()
        assert client.get_status("two").output == 7
        assert client.get_status(one).status == "Failed"
        assert_healthy(backend)


class TestARepairThatChangesNothing:
    @pytest.mark.parametrize("repair", [retry, fork, rewind])
    def test_says_so(self, client, flows, failed, repair):
        """The code failed by itself, and all that it had comes again."""
        client.start_orchestration("one", "Picky")
        flows.drain()
        client.raise_event("one", "word", "now")
        flows.drain()
        assert client.preview_fork("one").repeats
        repaired, rewound = repair(client, "one")
        assert rewound.repeats
        assert rewound.delivered_again == ["word"]
        flows.drain()
        assert client.get_status(repaired).error == "ValueError: say please"

    def test_says_so_on_the_command_line(self, client, flows, failed, capsys):
        """In words, beside the figures."""
        client.start_orchestration("one", "Picky")
        flows.drain()
        client.raise_event("one", "word", "now")
        flows.drain()
        call_command("duroxide", "retry", "one")
        assert "unless its code has changed, it will fail in the same way" in capsys.readouterr().out

    def test_is_one_that_drops_nothing(self, client, flows, failed):
        """Other events, activities that run again, and a cancel that is taken back change something."""
        client.start_orchestration("one", "Picky")
        flows.drain()
        client.raise_event("one", "word", "now")
        flows.drain()
        keep = client.preview_fork("one").kept_events
        assert not client.preview_rewind("one", keep, redeliver=False).repeats
        client.start_orchestration("three", "RacesFlaky")
        client.start_orchestration("four", "Picky")
        flows.drain(jump=False)
        client.cancel_instance("four", "enough")
        flows.drain(jump=False)
        assert [client.preview_fork(name).repeats for name in ("one", "three", "four")] == [True, False, False]
