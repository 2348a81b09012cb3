"""Turns that keep the loop from all other instances: who is known for them, and the log line that names the place."""

from __future__ import annotations

import time
from collections import OrderedDict

from duroxide_django.logs import runtime_log
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.storage.turns import Claimed

#: A turn that takes longer is a slow one, in seconds.
SLOW_S = 1.0
#: An instance is known for slow turns for this time after the last one, in seconds.
REMEMBERED_S = 600.0
#: As many instances are remembered.
REMEMBERED = 1_000
#: The slow turns of an orchestration are logged no more often than this, in seconds.
LOGGED_EACH_S = 60.0


class SlowTurns:
    """What the loop knows of slow turns."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # When each had its last one, the latest at the end.
        self._instances: OrderedDict[int, float] = OrderedDict()
        self._orchestrations: set[str] = set()
        self._logged: dict[str, float] = {}

    def expects(self, claimed: Claimed) -> bool:
        """Return whether an instance's next turn may well be slow.

        It had a slow one of late, or its orchestration's last turn was slow, whichever instance that was of.
        """
        if not (self._instances or self._orchestrations):
            return False
        since = self._instances.get(claimed.key, float("-inf"))
        return claimed.name in self._orchestrations or time.monotonic() - since < REMEMBERED_S

    def note(self, claimed: Claimed, took_s: float, place: str | None) -> None:
        """Remember how long a turn took, and log it if it was slow.

        Args:
            took_s: seconds, without what the database took.
            place: where it was seen, or None.
        """
        if took_s < SLOW_S:
            self._orchestrations.discard(claimed.name)
            return
        now = time.monotonic()
        self._orchestrations.add(claimed.name)
        self._instances[claimed.key] = now
        self._instances.move_to_end(claimed.key)
        if len(self._instances) > REMEMBERED:
            self._instances.popitem(last=False)
        self._metrics.add("orch_slow_turns")
        if now - self._logged.get(claimed.name, float("-inf")) < LOGGED_EACH_S:
            return
        self._logged[claimed.name] = now
        seen = "" if place is None else f"; it was seen at {place}"
        runtime_log.warning(
            f"A turn took {took_s:.1f} s, for which the other instances of this worker had to wait{seen}",
            instance_id=claimed.instance_id,
            execution_id=claimed.execution_id,
            orchestration_name=claimed.name,
            orchestration_version=claimed.version,
        )
