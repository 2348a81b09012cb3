"""Retention in the background: one worker at a time deletes what the setting RETENTION no longer keeps."""

from __future__ import annotations

import threading
import time
from collections import Counter

from django.db import DatabaseError, connections

from duroxide_django.conf import settings
from duroxide_django.logs import describe, log_exception, runtime_log
from duroxide_django.retention_client import selections
from duroxide_django.storage import pruning
from duroxide_django.storage.database import Database, forget_queries
from duroxide_django.storage.pruning import Selection

#: Families in one transaction.
BATCH = 20
#: A worker whose last beat is older can't be the one that prunes, in milliseconds (it beats every 5 s).
LIVE_MS = 30_000
#: Pauses are so many times as long as the work before, and at least so long, in seconds: workers come first.
_PAUSE_FACTOR = 4
_MIN_PAUSE_S = 0.05
#: How soon a worker that has just started looks whether it is its turn, in seconds.
_FIRST_LOOK_S = 1.0


class Housekeeping(threading.Thread):
    """A thread with a connection of its own that it closes between passes; never in the way of the loop."""

    def __init__(self, db: Database, worker_id: str) -> None:
        """
        Args:
            worker_id: the id of this worker's row.
        """
        super().__init__(name="duroxide-retention", daemon=True)
        self._db = db
        self._worker_id = worker_id
        self._ended = threading.Event()

    def run(self) -> None:
        """See Thread."""
        pause = _FIRST_LOOK_S
        while not self._ended.wait(pause):
            pause = settings.RETENTION_INTERVAL_MS / 1000
            try:
                self._pass()
            except DatabaseError as exc:
                runtime_log.warning("Retention failed; it is tried again later", error=describe(exc))
            except Exception as exc:
                log_exception("Retention failed; it is tried again later", exc)
            finally:
                forget_queries()
                connections.close_all()

    def stop(self) -> None:
        """Ask the thread to end after the batch that it is at."""
        self._ended.set()

    def _pass(self) -> None:
        if self._db.features.begins_immediately:
            self._db.connection.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
        if not pruning.is_first_worker(self._db, self._worker_id, live_ms=LIVE_MS):
            return
        for selection in selections(self._db.now_ms()):
            deleted = self._apply(selection)
            if deleted:
                runtime_log.info(
                    "Retention deleted ended instances",
                    families=deleted.total(),
                    orchestrations=dict(deleted),
                    status=selection.status,
                )

    def _apply(self, selection: Selection) -> Counter[str]:
        """Delete what is selected, with pauses; returns how many families of which orchestration went."""
        deleted: Counter[str] = Counter()
        until = pruning.last_created_before(self._db, selection.completed_before_ms)
        for roots in pruning.batches(self._db, selection, size=BATCH, until=until):
            began = time.monotonic()
            forget_queries()
            with self._db.atomic():
                if not pruning.may_prune(self._db):
                    break
                counted = pruning.prune(self._db, roots, selection, room=BATCH)
            deleted.update({name: counts["families"] for name, counts in counted.items()})
            if self._ended.wait(max(_MIN_PAUSE_S, (time.monotonic() - began) * _PAUSE_FACTOR)):
                break
        return deleted
