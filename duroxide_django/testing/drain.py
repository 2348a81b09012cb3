"""drain(): run everything that is due, in the calling thread and transaction."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace

from duroxide_django.engine.registry import Registry
from duroxide_django.exceptions import DuroxideError
from duroxide_django.options import RuntimeOptions, TagFilter
from duroxide_django.provider import Provider, alias_of
from duroxide_django.registry import default_registry
from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slots import InlineSlots
from duroxide_django.storage import activities, turns
from duroxide_django.storage.clock import virtual_now_ms
from duroxide_django.storage.database import Database
from duroxide_django.testing.clock import VirtualClock, virtual_clock


class DrainLimit(DuroxideError):
    """drain() did not come to rest within its limit of steps."""


def drain(
    *,
    using: str | None = None,
    provider: Provider | None = None,
    registry: Registry | None = None,
    jump: bool = True,
    until_ms: int | None = None,
    max_steps: int = 100_000,
    options: RuntimeOptions | None = None,
) -> int:
    """Run orchestrations and activities until nothing is left to do; works inside a plain TestCase.

    Everything happens in this thread and in the caller's transaction. Activities for every tag are run.

    Args:
        using, provider: where the workflows live; default: the setting DATABASE.
        registry: the functions to serve; default: the project's.
        jump: let the clock jump to the next timer, retry or end of a lease when nothing is due now. Inside
            ``virtual_clock()`` that clock moves; outside it a virtual clock that starts now is used for the call.
        until_ms: don't jump beyond this time, epoch milliseconds. An orchestration that loops by timers for ever
            (continue-as-new) needs it, or ``max_steps``. Without it, an instance that can't go on (its code is
            missing or doesn't fit) is tried once in a call: it would be tried again for ever.
        max_steps: iterations after which DrainLimit is raised; the next call goes on from there.
        options: runtime options.

    Returns:
        how many activities ran.
    """
    db = Database(alias_of(provider, using))
    given = options or RuntimeOptions(worker_tag_filter=TagFilter.ANY)
    # Nobody else could have the code.
    config = replace(resolve(given), unknown_code_grace_ms=0)
    if given.worker_node_id is None:
        # Every drain is the same worker, so that the next one still owns the sessions of the last.
        config = replace(config, owner="drain")
    metrics = Metrics()
    slots = InlineSlots(registry if registry is not None else default_registry, config, db, lambda: None)
    dispatcher = Dispatcher(slots.registry, config, db, slots, metrics)
    # Outside a virtual clock, jumping needs one; without jumping the real time is right.
    # It begins by the database's clock, which dated what is enqueued.
    clock = virtual_clock(db.now_ms()) if jump and virtual_now_ms() is None else nullcontext(VirtualClock())
    ran = 0
    # Instances that can't go on. Waiting doesn't bring other code in the middle of a call.
    parked: set[int] = set()
    keeps_trying = until_ms is not None
    with clock as time_machine:
        for _ in range(max_steps):
            dispatcher.claims = dispatcher.fetches = True
            more = dispatcher.iterate()
            if not keeps_trying:
                parked.update(item.claimed.key for item in dispatcher.parked if item.blocked is not None)
            worked = slots.work()
            ran += worked
            if more or worked:
                continue
            with db.atomic():
                expired = activities.expire_unstarted(db)
            if expired:
                continue
            if not (jump and _jump(db, time_machine, until_ms, parked)):
                dispatcher.drop_executions()
                return ran
        _give_back(db, dispatcher, slots)
    raise DrainLimit(f"drain() did not come to rest within {max_steps} steps; does an orchestration loop for ever?")


def _give_back(db: Database, dispatcher: Dispatcher, slots: InlineSlots) -> None:
    """Commit what is computed and release every lease, so that the next drain can go on at once."""
    dispatcher.draining = True
    if dispatcher.suspect is not None:
        dispatcher.parked.append(turns.Parked(claimed=dispatcher.suspect.claimed, delay_ms=0, blocked=None))
        dispatcher.suspect = None
    while dispatcher.iterate(claiming=False):
        pass
    activities.release(db, slots.unstarted())
    dispatcher.drop_executions()


def _jump(db: Database, clock: VirtualClock, until_ms: int | None, parked: Collection[int]) -> bool:
    """Move the clock to the next moment at which something is due; returns whether there is one."""
    due = (turns.next_visible_ms(db, but=parked), turns.next_lease_end_ms(db), activities.next_visible_ms(db))
    moments = [moment for moment in due if moment is not None]
    if not moments or (until_ms is not None and min(moments) > until_ms):
        return False
    clock.move_to(max(clock.now_ms, min(moments)))
    return True
