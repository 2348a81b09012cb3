"""How much a worker takes at once: less after a failure of the database that may have come from too much."""

from __future__ import annotations

from duroxide_django.storage import turns
from duroxide_django.storage.faults import may_come_of_size

#: One instance gets at most this share of the bytes of a batch, so that others are served beside it.
_TURN_SHARE = 2


class BatchSize:
    """The bounds of the next batch.

    Each failure halves them, down to a single instance; each commit of turns doubles them again, up to what is
    configured.
    """

    def __init__(self, instances: int, max_bytes: int) -> None:
        """
        Args:
            instances: how many instances a batch has at the most.
            max_bytes: how many bytes of messages or histories it has at the most, of the first instance apart.
        """
        self._instances = instances
        self._bytes = max_bytes
        self._halvings = 0

    @property
    def instances(self) -> int:
        """How many instances the next batch may have."""
        return max(1, self._instances >> self._halvings)

    @property
    def bytes(self) -> int:
        """How many bytes the next batch may have."""
        return max(1, self._bytes >> self._halvings)

    @property
    def bounds(self) -> turns.Bounds:
        """What is read of the messages of the next batch."""
        return turns.Bounds(
            messages=max(1, turns.MAX_BATCH_MESSAGES >> self._halvings),
            turn=self.bytes // _TURN_SHARE,
            batch=self.bytes,
        )

    @property
    def is_halved(self) -> bool:
        """Whether a failure has made it smaller."""
        return self._halvings > 0

    def failed(self, error: BaseException, instances: int) -> bool:
        """Make the next batch smaller, as one has failed.

        Args:
            instances: how many instances it had.

        Returns:
            whether the attempt of the only instance in it counts: it has failed before, in company or alone.
        """
        counts = self.is_halved and instances == 1 and may_come_of_size(error)
        self._halvings = min(self._halvings + 1, self._instances.bit_length())
        return counts

    def succeeded(self) -> None:
        """Let the next batch be larger again, as turns were committed."""
        self._halvings = max(0, self._halvings - 1)
