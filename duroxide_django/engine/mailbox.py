"""Queue messages of one instance that no subscription has taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from duroxide_django.engine.messages import Mail


class Mailbox:
    """FIFO per queue.

    Every operation costs the same however many messages wait.

    Attributes:
        stored: rows of the mailbox table that hold one of these messages.
        size: characters of all messages together.
    """

    def __init__(self, stored: Iterable[Mail] = ()) -> None:
        self._queues: dict[str, deque[Mail]] = {}
        self.stored: set[int] = set()
        self.size = 0
        self._fresh: list[Mail] = []
        for mail in stored:
            self.add(mail)
            self.stored.add(mail.id)
        self._fresh = []

    def add(self, mail: Mail) -> None:
        """Put ``mail`` at the end of its queue."""
        self._queues.setdefault(mail.queue, deque()).append(mail)
        self._fresh.append(mail)
        self.size += len(mail.data)

    def take(self, queue: str) -> Mail | None:
        """Return and remove the oldest message of ``queue``, or None."""
        waiting = self._queues.get(queue)
        if not waiting:
            return None
        mail = waiting.popleft()
        self.size -= len(mail.data)
        if not waiting:
            del self._queues[queue]
        return mail

    def settle(self, taken: Iterable[Mail]) -> tuple[list[int], list[Mail]]:
        """Return the rows to delete for the ``taken`` messages and the messages to store, and count them as stored."""
        gone = {mail.id for mail in taken}
        consumed = sorted(gone & self.stored)
        self.stored.difference_update(consumed)
        fresh = sorted((mail for mail in self._fresh if mail.id not in gone), key=lambda mail: mail.id)
        self.stored.update(mail.id for mail in fresh)
        self._fresh = []
        return consumed, fresh

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())
