"""When a loop counts as hanging; time passes as the test says."""

from __future__ import annotations

import pytest

from duroxide_django.engine.registry import Registry
from duroxide_django.runtime import watchdog
from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.loop import Loop
from duroxide_django.storage.database import Database


class Time:
    """The watchdog's clock, and what it sleeps by: each wait takes as long as planned, in seconds."""

    def __init__(self):
        self.now = 1_000.0
        self.waits = []
        #: Share of the time in which the process computes.
        self.busy = 0.0

    def monotonic(self):
        return self.now

    def process_time(self):
        return self.now * self.busy

    def wait(self, _seconds):
        """Return whether the watchdog is to end, as Event.wait does."""
        if not self.waits:
            return True
        self.now += self.waits.pop(0)
        return False


@pytest.fixture
def passing(monkeypatch):
    passing = Time()
    monkeypatch.setattr(watchdog, "time", passing)
    return passing


@pytest.fixture
def loop(backend, passing):
    """A loop that stands still."""
    loop = Loop(Registry(), resolve(None), Database(backend))
    loop.dispatcher.moved_at = passing.now
    yield loop
    loop.slots.stop()


@pytest.fixture
def watch(loop, passing, monkeypatch):
    """Let the watchdog look after each of these waits, in seconds; returns the moments at which it reported."""
    reports = []
    watching = watchdog.Watchdog(loop)
    watching._ended = passing
    monkeypatch.setattr(watching, "_report", lambda: reports.append(passing.now - 1_000))

    def watch(*waits):
        passing.waits += waits
        watching.run()
        return reports

    return watch


class TestALoop:
    def test_that_stands_still_hangs(self, watch):
        assert watch(*[1.0] * 29) == []
        assert watch(1.0) == [30.0]

    def test_that_waits_for_the_database_does_not(self, loop, watch):
        with loop.dispatcher.asking_database():
            assert watch(*[1.0] * 100) == []


class TestAProcessThatWasStopped:
    def test_is_given_time(self, watch):
        """Ctrl-Z, a paused container, a sleeping laptop: the loop could not turn meanwhile."""
        assert watch(1.0, 60.0, *[1.0] * 29) == []

    def test_and_hangs_all_the_same_is_found(self, watch):
        assert watch(1.0, 60.0, *[1.0] * 30) == [91.0]

    def test_in_the_middle_of_a_turn_is_given_time(self, loop, passing, watch):
        """As long as a turn may take."""
        limit = int(loop.config.turn_timeout_ms / 1000)
        loop.dispatcher.turn = None, passing.now
        assert watch(1.0, 2.0 * limit, *[1.0] * (limit - 1)) == []
        assert watch(1.0) == [3.0 * limit + 1.0]


class TestATurnThatHoldsTheInterpreter:
    def test_is_found(self, passing, watch):
        """The watchdog comes late each time, as in a process that was stopped; but this one computes."""
        passing.busy = 0.9
        assert watch(*[4.0] * 8) == [32.0]
