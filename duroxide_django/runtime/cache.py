"""Live executions kept between turns, bounded, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from duroxide_django.engine.mailbox import Mailbox
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.storage.turns import Claimed


@dataclass(slots=True)
class Cached:
    """A live execution and the row it belongs to, as they stood after the last committed turn."""

    execution: LiveExecution
    claimed: Claimed

    def fits(self, claimed: Claimed) -> bool:
        """Return whether nobody has gone on with the instance since."""
        return self.claimed.mark == claimed.mark


class Cache:
    """Live executions by instance key, and the mailboxes of those that continue as new.

    A loop by continue-as-new over a long queue would read the whole queue for each execution otherwise.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        """
        Args:
            max_count: how many executions are kept at the most.
            max_bytes: how many bytes they may take together, roughly.
        """
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, tuple[Cached, int]] = OrderedDict()
        self._bytes = 0
        self._mail_size = 0
        self._mailboxes: OrderedDict[int, tuple[int, Mailbox]] = OrderedDict()
        self._retired: list[LiveExecution] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: int) -> Cached | None:
        """Return the entry of an instance and mark it as used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: int, cached: Cached) -> None:
        """Keep an entry; what exceeds the bounds is retired."""
        size = cached.execution.size_estimate
        old = self._entries.pop(key, None)
        if old is not None:
            self._bytes -= old[1]
            if old[0].execution is not cached.execution:
                self.retire(old[0].execution)
        self._entries[key] = (cached, size)
        self._bytes += size
        while len(self._entries) > self._max_count or (self._bytes > self._max_bytes and self._is_droppable()):
            oldest = next(iter(self._entries))
            self.drop(oldest)

    def _is_droppable(self) -> bool:
        # The newest stays however large it is: it was in memory for its turn, and its next one may follow at once.
        return len(self._entries) > min(1, self._max_bytes)

    def put_mailbox(self, key: int, mark: int, mailbox: Mailbox) -> None:
        """Keep the mailbox of an instance for its next execution.

        Args:
            mark: the mark of the instance's row; it is valid as long as that doesn't change.
        """
        self._pop_mailbox(key)
        self._mailboxes[key] = mark, mailbox
        self._mail_size += mailbox.size
        while self._mailboxes and (len(self._mailboxes) > self._max_count or self._mail_size > self._max_bytes):
            self._pop_mailbox(next(iter(self._mailboxes)))

    def has_mailbox(self, key: int, mark: int) -> bool:
        """Return whether ``take_mailbox`` would return one."""
        kept = self._mailboxes.get(key)
        return kept is not None and kept[0] == mark

    def take_mailbox(self, key: int, mark: int) -> Mailbox | None:
        """Remove and return the mailbox of an instance, if nobody has gone on with it since."""
        kept = self._pop_mailbox(key)
        return kept[1] if kept is not None and kept[0] == mark else None

    def _pop_mailbox(self, key: int) -> tuple[int, Mailbox] | None:
        kept = self._mailboxes.pop(key, None)
        if kept is not None:
            self._mail_size -= kept[1].size
        return kept

    def take(self, key: int) -> Cached | None:
        """Remove and return an entry."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]

    def drop(self, key: int) -> None:
        """Remove an entry and retire its execution."""
        self._pop_mailbox(key)
        cached = self.take(key)
        if cached is not None:
            self.retire(cached.execution)

    def retire(self, execution: LiveExecution) -> None:
        """Have an execution closed that is of no more use.

        Closing one that is suspended runs users' ``finally`` blocks. It is left to who takes the retired ones, when no
        transaction of the worker's is open.
        """
        if execution.is_suspended:
            self._retired.append(execution)
        else:
            execution.close()

    def take_retired(self) -> list[LiveExecution]:
        """Return and forget the executions that are to be closed."""
        retired, self._retired = self._retired, []
        return retired

    def clear(self) -> None:
        """Drop everything."""
        self._mailboxes.clear()
        self._mail_size = 0
        for key in list(self._entries):
            self.drop(key)
