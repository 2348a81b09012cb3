"""Noticing a loop that doesn't turn any more: a turn that never ends holds everything else of its process up.

A Python thread can't be killed, so the process has to be replaced. Before that, this thread says which instance it
was and where its function hangs, and gives what the process holds to others: neighbours of the same batch, completions
that were on their way, running activities. The attempt of the hanging instance counts, theirs don't.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.db import Error as DjangoDatabaseError
from django.db import connections

from duroxide_django.logs import runtime_log
from duroxide_django.runtime.turns import Work
from duroxide_django.storage import activities, turns, workers
from duroxide_django.storage.database import Database
from duroxide_django.storage.turns import Parked

if TYPE_CHECKING:
    from duroxide_django.runtime.loop import Loop

#: A loop that has not turned for so long, in seconds, hangs, also outside a turn.
LIVE_S = 30.0
#: A look at the loop that is so late, in seconds, means that the whole process stood still, unless it was busy.
_OVERSLEPT_S = 2.0
#: The innermost frames tell where a function hangs.
_FRAMES = 6
#: Giving back what the process holds may take so long, in seconds; after that its leases have to run out.
_GIVE_BACK_S = 10.0
#: The hanging instance is tried again after so many milliseconds, apart from others.
_PAUSE_MS = 1_000


class Watchdog(threading.Thread):
    """Watches one loop.

    Attributes:
        found: what hangs, for people, once others can go on with what the process held; None while the loop turns.
    """

    def __init__(self, loop: Loop) -> None:
        super().__init__(name="duroxide-watchdog", daemon=True)
        self._found: str | None = None
        self._gives_back_until = 0.0
        self._awake_since = float("-inf")
        self._loop = loop
        self._timeout_s = loop.config.turn_timeout_ms / 1000
        self._ended = threading.Event()
        self._seen: tuple[Work, str] | None = None

    def place_of(self, work: Work) -> str | None:
        """Return where a turn was when it was last seen, or None: it was over before."""
        seen = self._seen
        return seen[1] if seen is not None and seen[0] is work else None

    def _see(self) -> None:
        turn = self._loop.dispatcher.turn
        if turn is not None and (where := self._stack()):
            self._seen = turn[0], where[-1]

    @property
    def found(self) -> str | None:
        """See the class. The process must not end in the middle of giving back."""
        return None if time.monotonic() < self._gives_back_until else self._found

    def stop(self) -> None:
        """Ask the thread to end."""
        self._ended.set()

    def run(self) -> None:
        """See Thread."""
        try:
            pause_s = min(1.0, self._timeout_s / 4)
            looked_at, used = time.monotonic(), time.process_time()
            while not self._ended.wait(pause_s):
                now = time.monotonic()
                # Stopped, with the loop, which could not have done anything; or a turn holds the interpreter.
                if now - looked_at > pause_s + _OVERSLEPT_S and time.process_time() - used < (now - looked_at) / 2:
                    self._awake_since = now
                looked_at, used = now, time.process_time()
                self._see()
                hangs = self.loop_hangs()
                if hangs and self._found is None:
                    self._report()
                elif not hangs and self._found is not None:
                    runtime_log.warning("The loop turns again", was=self._found)
                    self._found = None
        finally:
            connections.close_all()

    def loop_hangs(self) -> bool:
        """Return whether the loop has computed for too long; waiting for the database is not hanging."""
        dispatcher, now = self._loop.dispatcher, time.monotonic()
        # In this order: the loop puts the turn's beginning off before it says that it asks no more.
        asked_at, turn = dispatcher.asked_at, dispatcher.turn
        if asked_at is not None:
            return False
        if turn is not None:
            return now - max(turn[1], self._awake_since) >= self._timeout_s
        return now - max(dispatcher.moved_at, self._awake_since) >= max(LIVE_S, self._timeout_s)

    def _report(self) -> None:
        turn = self._loop.dispatcher.turn
        work = None if turn is None else turn[0]
        where = self._stack()
        seconds = time.monotonic() - (self._loop.dispatcher.moved_at if turn is None else turn[1])
        found = "the engine loop" if work is None else f"the turn of {work.claimed.instance_id!r}"
        found += f" has not ended after {seconds:.0f} s; it hangs at {where[-1] if where else 'an unknown place'}"
        names = {}
        if work is not None:
            names = {
                "instance_id": work.claimed.instance_id,
                "execution_id": work.claimed.execution_id,
                "orchestration_name": work.claimed.name,
                "orchestration_version": work.claimed.version,
            }
        runtime_log.error(f"The worker hangs: {found}", stack=" > ".join(where), **names)
        self._gives_back_until = time.monotonic() + _GIVE_BACK_S
        self._found = found
        try:
            self._give_everything_back(work, where)
        except DjangoDatabaseError as exc:
            runtime_log.warning("The leases of a hanging worker could not be given back; they run out", error=str(exc))
            connections[self._loop.db.alias].close()
        finally:
            self._gives_back_until = 0.0
            # A first turn that hangs must not keep who waits for the start.
            self._loop.ready.set()

    def _stack(self) -> list[str]:
        frame = sys._current_frames().get(self._loop.ident or 0)  # noqa: SLF001 - documented for this purpose
        found = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
        return [f"{entry.filename}:{entry.lineno} in {entry.name}" for entry in found]

    def _give_everything_back(self, work: Work | None, where: Sequence[str]) -> None:
        """Let other workers go on with what this process holds; each row is guarded by its lease token."""
        loop, dispatcher = self._loop, self._loop.dispatcher
        db = Database(loop.db.alias)
        neighbours = [*dispatcher.works]
        if dispatcher.suspect is not None:
            neighbours.append(dispatcher.suspect)
        claimed = [other.claimed for other in neighbours]
        claimed += [item.commit.claimed for item in dispatcher.pending]
        parked = [Parked(claimed=item, delay_ms=0, blocked=None) for item in claimed if item.token is not None]
        finished = [*loop.slots.take_finished(), *dispatcher.uncommitted()]
        if work is not None and work.claimed.token is not None:
            blocked: dict[str, object] = {"reason": "hanging_turn", "message": self._found, "stack": list(where)}
            parked.append(
                Parked(claimed=work.claimed, delay_ms=_PAUSE_MS, blocked=blocked, keep_attempt=True),
            )
        with db.atomic():
            turns.park(db, [*parked, *dispatcher.parked, *dispatcher.postponed.parked()])
            activities.complete(db, list({item.task.lease: item for item in finished}.values()))
            activities.release(db, loop.slots.unstarted())
            activities.release(db, loop.slots.tasks(), begun=True)
            workers.remove(db, loop.config.worker_id)
            if loop.config.owner == loop.config.worker_id:
                workers.release_sessions(db, owner=loop.config.owner)
