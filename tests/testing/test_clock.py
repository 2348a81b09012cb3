"""virtual_clock(): a time that stands still until it is told to move."""

from __future__ import annotations

import threading
import time

import pytest
from django.test import TestCase

from duroxide_django import Client, InvalidArgument
from duroxide_django.engine.registry import Registry
from duroxide_django.storage.database import Database
from duroxide_django.testing import VirtualClock, drain, virtual_clock


class TestVirtualClock:
    def test_begins_now_or_when_told(self):
        """Without a beginning it shows the real time of its start."""
        with virtual_clock() as clock:
            assert abs(clock.now_ms - time.time() * 1000) < 5_000
        with virtual_clock(start_ms=1_000) as clock:
            assert clock.now_ms == 1_000

    def test_stands_still(self):
        """Time passes only by the test's word."""
        with virtual_clock() as clock:
            before = clock.now_ms
            time.sleep(0.01)
            assert clock.now_ms == before

    def test_moves_forward(self):
        """By any unit, summed up; the new time is returned."""
        with virtual_clock(start_ms=0) as clock:
            assert clock.advance(ms=1) == clock.now_ms == 1
            assert clock.advance(seconds=1.5) == 1_501
            assert clock.advance(days=1, hours=1, minutes=1) == 1_501 + 90_060_000
            assert clock.move_to(10**9) == clock.now_ms == 10**9
            assert clock.advance() == 10**9

    def test_never_goes_back(self):
        """Neither by a moment nor by a negative step."""
        with virtual_clock(start_ms=1_000) as clock:
            with pytest.raises(InvalidArgument, match="can't go back from 1000 to 999"):
                clock.move_to(999)
            with pytest.raises(InvalidArgument, match="can't go back"):
                clock.advance(ms=-1)
            assert clock.now_ms == 1_000

    def test_shows_nothing_outside_its_block(self):
        """A clock kept beyond its block says so."""
        with virtual_clock() as clock:
            pass
        for call in (lambda: clock.now_ms, lambda: clock.advance(ms=1), lambda: VirtualClock().now_ms):
            with pytest.raises(InvalidArgument, match="only inside its with block"):
                call()

    def test_may_be_nested(self):
        """The inner time ends with the inner block."""
        with virtual_clock(start_ms=1_000) as outer:
            with virtual_clock(start_ms=5_000) as inner:
                inner.advance(ms=1)
                assert inner.now_ms == 5_001
            assert outer.now_ms == 1_000

    def test_is_put_back_after_an_error(self):
        """A failing test doesn't stop the time of the next one."""
        with pytest.raises(ZeroDivisionError), virtual_clock(start_ms=0):
            raise ZeroDivisionError
        with pytest.raises(InvalidArgument):
            _ = VirtualClock().now_ms

    def test_is_of_its_thread_alone(self):
        """Other threads keep the real time."""
        seen = []
        with virtual_clock(start_ms=0):
            thread = threading.Thread(target=lambda: seen.append(_has_virtual_time()))
            thread.start()
            thread.join()
        assert seen == [False]


def _has_virtual_time():
    try:
        return VirtualClock().now_ms is not None
    except InvalidArgument:
        return False


class TestTimeOfWorkflows(TestCase):
    def setUp(self):
        self.client_, self.registry = Client(using="default"), Registry()

    def drain(self, **options):
        return drain(using="default", registry=self.registry, **options)

    def test_is_what_storage_sees(self):
        """The database's clock gives way to the virtual one, to the millisecond."""
        with virtual_clock(start_ms=1_234_567):
            assert Database("default").now_ms() == 1_234_567
            self.client_.start_orchestration("any-1", "Any")
            assert self.client_.get_instance_info("any-1").created_at == 1_234_567

    def test_is_what_orchestrations_see(self):
        """utc_now() and the history's timestamps are virtual."""

        def asking(ctx, input):
            first = yield ctx.utc_now()
            yield ctx.schedule_timer(60_000)
            return [first, (yield ctx.utc_now())]

        self.registry.add_orchestration("Asking", asking)
        with virtual_clock(start_ms=5_000):
            self.client_.start_orchestration("asking-1", "Asking")
            self.drain()
        assert self.client_.get_status("asking-1").output == [5_000, 65_000]
        stamps = [event.timestamp_ms for event in self.client_.read_execution_history("asking-1", 1)]
        assert (min(stamps), max(stamps)) == (5_000, 65_000)

    def test_lets_a_test_stop_between_two_timers(self):
        """advance() and drain(jump=False): the test decides when the hour is over."""
        rung = []
        self.registry.add_activity("Ring", lambda ctx, input: rung.append(input))

        def alarm(ctx, input):
            for number in range(2):
                yield ctx.schedule_timer(3_600_000)
                yield ctx.schedule_activity("Ring", number)

        self.registry.add_orchestration("Alarm", alarm)
        with virtual_clock() as clock:
            self.client_.start_orchestration("alarm-1", "Alarm")
            self.drain(jump=False)
            clock.advance(minutes=59)
            self.drain(jump=False)
            assert rung == []
            clock.advance(minutes=1)
            self.drain(jump=False)
            assert rung == [0]
            clock.advance(hours=1)
            self.drain(jump=False)
            assert rung == [0, 1]
        assert self.client_.get_status("alarm-1").status == "Completed"

    def test_decides_races_between_events_and_timers(self):
        """An answer a minute before the deadline wins, one after it loses."""

        def approval(ctx, input):
            answer = yield ctx.race(ctx.wait_for_event("answer"), ctx.schedule_timer(86_400_000))
            return "answered" if answer["index"] == 0 else "too late"

        self.registry.add_orchestration("Approval", approval)
        with virtual_clock() as clock:
            for name in ("early", "late"):
                self.client_.start_orchestration(name, "Approval")
            self.drain(jump=False)
            clock.advance(hours=23, minutes=59)
            self.client_.raise_event("early", "answer")
            self.drain(jump=False)
            clock.advance(minutes=2)
            self.client_.raise_event("late", "answer")
            self.drain(jump=False)
        assert self.client_.get_status("early").output == "answered"
        assert self.client_.get_status("late").output == "too late"

    def test_moves_with_a_jumping_drain(self):
        """drain() inside the block moves the test's own clock."""

        def sleeping(ctx, input):
            yield ctx.schedule_timer(7_000)

        self.registry.add_orchestration("Sleeping", sleeping)
        with virtual_clock(start_ms=1_000) as clock:
            self.client_.start_orchestration("sleeping-1", "Sleeping")
            self.drain()
            assert clock.now_ms == 8_000
