"""The guide's long waits at their printed length, under a clock that jumps; no runtime is started."""

from __future__ import annotations

import pytest

from duroxide_django import Runtime
from duroxide_django.testing import drain, virtual_clock
from tests.acceptance.test_seed_failures import failing, retry_program
from tests.acceptance.test_seed_timers import (
    HOUR_MS,
    ONE_ROUND,
    delayed_notification_program,
    fire_time,
    monitor_program,
)


@pytest.fixture
def run_due(provider):
    """Return a function that runs what is due of a program, in this thread, and gives the number of activities."""

    def run(program, *, jump=False, until_ms=None, **arguments):
        runtime = Runtime(provider)
        program(runtime, **arguments)
        return drain(provider=provider, registry=runtime.registry, jump=jump, until_ms=until_ms)

    return run


class TestDelayedNotification:
    """Program 6, as printed: sixty minutes to the millisecond."""

    def test_reminds_after_exactly_one_hour(self, client, run_due, history, kinds):
        """One millisecond before the hour nothing has happened; at the hour the reminder goes out."""
        reminders = []
        with virtual_clock() as clock:
            client.start_orchestration("delay-1", "DelayedNotification", {"to": "ann"})
            run_due(delayed_notification_program, reminders=reminders)
            assert fire_time(history("delay-1")) == clock.now_ms + HOUR_MS

            clock.advance(ms=HOUR_MS - 1)
            run_due(delayed_notification_program, reminders=reminders)
            assert reminders == []
            assert kinds("delay-1") == ["OrchestrationStarted", "TimerCreated"]

            clock.advance(ms=1)
            run_due(delayed_notification_program, reminders=reminders)
            assert reminders == [{"to": "ann"}]
            assert client.get_status("delay-1").output == "done"
        fired = history("delay-1")[2]
        assert fired.kind == "TimerFired"
        assert fired.timestamp_ms == fire_time(history("delay-1"))

    def test_jumps_to_the_hour_by_itself(self, client, run_due):
        """Allowed to jump, one call takes it to its end; the clock shows the hour."""
        reminders = []
        with virtual_clock() as clock:
            began = clock.now_ms
            client.start_orchestration("delay-1", "DelayedNotification", {"to": "ann"})
            run_due(delayed_notification_program, jump=True, reminders=reminders)
            assert client.get_status("delay-1").output == "done"
            assert clock.now_ms == began + HOUR_MS
        assert reminders == [{"to": "ann"}]


class TestMonitor:
    """Program 10, as printed: a check every half minute."""

    def test_checks_twenty_times_in_ten_minutes(self, client, run_due, kinds):
        """Ten minutes hold twenty rounds, each with a short history of its own."""
        checked = []
        with virtual_clock() as clock:
            began = clock.now_ms
            client.start_orchestration("mon-1", "Monitor", {"target": "db"})
            run_due(monitor_program, jump=True, until_ms=began + 10 * 60_000 - 1, checked=checked)
            assert client.get_status("mon-1").status == "Running"
        assert len(checked) == 20
        assert client.list_executions("mon-1") == list(range(1, 21))
        assert kinds("mon-1", 19) == ONE_ROUND
        assert kinds("mon-1", 20) == ONE_ROUND[:4]


class TestRetry:
    """Program 12, as printed: back-off between three attempts."""

    def test_waits_100_and_200_milliseconds(self, client, run_due):
        """The third attempt comes exactly 300 ms after the first."""
        calls = []
        with virtual_clock() as clock:
            began = clock.now_ms
            client.start_orchestration("retry-1", "RetryWorkflow", None)
            run_due(retry_program, jump=True, until_ms=began + 1000, flakey_api=failing(2, calls), policy={})
            assert client.get_status("retry-1").output == "finally"
            assert clock.now_ms == began + 300
        assert len(calls) == 3
