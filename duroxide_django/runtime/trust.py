"""How many suspects a process tries together: one at first, more as long as it survives them."""

from __future__ import annotations

import time

#: After so many seconds without a trial the next one is of a single suspect again.
FORGOTTEN_S = 10.0


class Trust:
    """The size of the next trial.

    What died beside a killer is suspected as the killer is. To try each alone takes long where many died together; so
    a process that survives a trial tries twice as many in the next one. Only a delivery that is tried alone counts.
    """

    def __init__(self, most: int) -> None:
        """
        Args:
            most: as many are tried together at the most.
        """
        self._most = most
        self._size = 1
        self._survived_at = float("-inf")

    def size(self) -> int:
        """Return how many suspects to try together now."""
        if time.monotonic() - self._survived_at > FORGOTTEN_S:
            self._size = 1
        return self._size

    def survived(self) -> None:
        """Take in that a trial has not ended this process."""
        self._size = min(self.size() * 2, self._most)
        self._survived_at = time.monotonic()
