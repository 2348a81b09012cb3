"""A turn that doesn't end: what its runtime says and gives back, inside one process (tests/chaos has the others)."""

from __future__ import annotations

import threading
import time

import pytest

from duroxide_django.models import Instance
from duroxide_django.runtime.watchdog import Watchdog


@pytest.fixture
def over(program, settings):
    """Lets the turn of "Stubborn" end; half a second is too long for it."""
    settings.DUROXIDE = {**settings.DUROXIDE, "TURN_TIMEOUT_MS": 500}
    over = threading.Event()

    @program.orchestration("Stubborn")
    def stubborn(ctx, _input):
        over.wait(60)
        return (yield ctx.new_guid()) and "ended"

    yield over
    over.set()


class TestASlowTurn:
    def test_is_logged_with_its_place(self, client, program, over, start_runtime, caplog, monkeypatch):
        """It ended in time, but the worker's other instances waited for it."""
        monkeypatch.setattr("duroxide_django.runtime.slow_turns.SLOW_S", 0.1)

        @program.orchestration("Slow")
        def slow(ctx, _input):
            # Longer than the watchdog waits between two looks.
            ends = time.monotonic() + 0.3
            while time.monotonic() < ends:
                pass

        start_runtime()
        client.start_orchestration("it", "Slow")
        assert client.wait_for_orchestration("it", 60_000).status == "Completed"
        (said,) = [line for line in caplog.messages if "A turn took" in line]
        assert "test_hanging_turns.py" in said
        assert said.endswith("in slow")


class TestHanging:
    def test_in_the_first_turn_does_not_keep_the_start(self, client, over, start_runtime):
        """Whoever supervises the worker hears of it at once, not when a start has taken too long."""
        client.start_orchestration("it", "Stubborn")
        began = time.monotonic()
        runtime = start_runtime()
        assert time.monotonic() - began < 20
        assert "the turn of 'it' has not ended" in runtime.hangs
        assert not runtime.is_live()
        over.set()
        assert client.wait_for_orchestration("it", 60_000).output == "ended"

    def test_is_told_once_others_can_go_on(self, client, backend, over, start_runtime, wait_until, monkeypatch):
        """A process that ended earlier would leave what it holds to the end of its leases."""
        seen = []
        give_back = Watchdog._give_everything_back

        def slowly(self, *arguments):
            seen.append(runtime.hangs)
            give_back(self, *arguments)
            seen.append(runtime.hangs)

        monkeypatch.setattr(Watchdog, "_give_everything_back", slowly)
        runtime = start_runtime()
        client.start_orchestration("it", "Stubborn")
        wait_until(lambda: runtime.hangs, timeout_s=60)
        assert seen == [None, None]
        assert Instance.objects.using(backend).get(instance_id="it").lease_token is None
        over.set()
        assert client.wait_for_orchestration("it", 60_000).output == "ended"
