"""The KV store as one execution sees it: its base plus its own recorded writes (spec 11.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from duroxide_django.engine.actions import Action, ClearAllKv, ClearKv, SetKv
from duroxide_django.engine.limits import (
    MAX_KV_KEYS,
    MAX_KV_VALUE_BYTES,
    check_bytes,
    check_storable,
    check_text,
)
from duroxide_django.exceptions import LimitExceeded

#: A value and when it was set (epoch milliseconds).
Entry = tuple[str, int]


class KvState:
    """Read-your-writes view of the instance's KV entries.

    Attributes:
        changes: keys changed since ``take_changes`` was last called; None stands for a removed key.
    """

    def __init__(
        self,
        base: Mapping[str, Entry],
        emit: Callable[[Action], bool],
        now_ms: Callable[[], int],
        recorded_times: Iterable[int] = (),
    ) -> None:
        """
        Args:
            base: entries at the start of the execution.
            emit: records an action; False when the context is inert.
            now_ms: the turn's time in epoch milliseconds.
            recorded_times: times of the sets that history already holds, in order.
        """
        self._entries = dict(base)
        self._emit = emit
        self._now_ms = now_ms
        self._recorded = deque(recorded_times)
        self.changes: dict[str, Entry | None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> str | None:
        """Return the value of ``key`` or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def values(self) -> dict[str, str]:
        """Return a copy of all values, in the order of their keys."""
        # A database gives the base in any order, and a loop over the entries must replay (W23).
        return {key: self._entries[key][0] for key in sorted(self._entries)}

    def set(self, key: str, value: str) -> None:
        """Set ``key``; raises LimitExceeded, before anything changes, if a limit would be exceeded."""
        check_text(key, "KV key", empty=True)
        check_storable(value, f"The value of KV key {key!r}")
        check_bytes(value, f"The value of KV key {key!r}", MAX_KV_VALUE_BYTES)
        if key not in self._entries and len(self._entries) >= MAX_KV_KEYS:
            raise LimitExceeded(f"KV key {key!r} would be number {len(self._entries) + 1}, the limit is {MAX_KV_KEYS}.")
        # The recorded time is used on replay, or pruning by time would not replay (W23).
        updated_ms = self._recorded[0] if self._recorded else self._now_ms()
        if self._emit(SetKv(key, value, updated_ms)):
            if self._recorded:
                self._recorded.popleft()
            self._entries[key] = self.changes[key] = (value, updated_ms)

    def clear(self, key: str) -> None:
        """Remove ``key``; an absent one is recorded too."""
        check_text(key, "KV key", empty=True)
        if self._emit(ClearKv(key)):
            self._entries.pop(key, None)
            self.changes[key] = None

    def clear_all(self) -> None:
        """Remove every key."""
        if self._emit(ClearAllKv()):
            self.changes.update(dict.fromkeys(self._entries))
            self._entries.clear()

    def prune(self, cutoff_ms: int) -> int:
        """Remove the keys set before ``cutoff_ms``, in sorted order; returns how many."""
        old = sorted(key for key, (_, updated_ms) in self._entries.items() if updated_ms < cutoff_ms)
        for key in old:
            self.clear(key)
        return len(old)

    def take_changes(self) -> dict[str, Entry | None]:
        """Return the changes of the turn and forget them."""
        changes, self.changes = self.changes, {}
        return changes
