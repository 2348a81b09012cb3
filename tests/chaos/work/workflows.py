"""Mixed work whose results tell at the end whether anything was lost or doubled.

Every orchestration is registered in ``EXPECTED`` with what it returns and which steps it writes to the ledger.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from django.db import connection
from django.db.models import F

from duroxide_django import activity, orchestration
from tests.chaos import crash_points
from tests.chaos.work.models import Entry, Tally

crash_points.arrange()


@activity("Note", atomic=True)
def note(ctx, step):
    """Write an entry in the same transaction as the completion: exactly once."""
    Entry.objects.create(instance_id=ctx.instance_id, step=step, atomic=True)
    return 1


@activity("Do")
def do(ctx, step):
    """Write an entry in a transaction of its own: at least once."""
    Entry.objects.create(instance_id=ctx.instance_id, step=step, atomic=False)
    time.sleep(0.005)
    return 1


@activity("Flaky")
def flaky(ctx, step):
    """Fail twice, then do it."""
    if ctx.attempt < 3:
        raise ConnectionError(f"attempt {ctx.attempt} of {step}")
    return 1


@activity("Cross", atomic=True)
def cross(ctx, names):
    """Raise two tallies, in the order given: two of these in opposite orders deadlock."""
    for name in names:
        Tally.objects.filter(name=name).update(value=F("value") + 1)
        time.sleep(0.01)
    return 1


@activity("Serial", atomic=True)
def serial(ctx, name):
    """Raise a tally in a snapshot: two of these at once can't be serialized."""
    if connection.vendor == "postgresql":
        connection.cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    tally = Tally.objects.get(name=name)
    time.sleep(0.01)
    Tally.objects.filter(name=name).update(value=tally.value + 1)
    return 1


@activity("Echo")
def echo(ctx, value):
    """Return what it is given."""
    return value


@activity("Dawdle", atomic=True)
def dawdle(ctx, seconds):
    """Write an entry, and idle in the transaction at the first delivery."""
    Entry.objects.create(instance_id=ctx.instance_id, step="dawdled", atomic=True)
    if ctx.delivery == 1:
        time.sleep(seconds)
    return ctx.delivery


@activity("Query")
def query(ctx, statement):
    """Send a statement."""
    connection.cursor().execute(statement)


def _hold(ctx, folder, *, atomic):
    Entry.objects.create(instance_id=ctx.instance_id, step="held", atomic=atomic)
    (Path(folder) / f"began-{os.getpid()}").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    (Path(folder) / f"ended-{os.getpid()}").touch()
    return os.getpid()


@activity("Held")
def held(ctx, folder):
    """Write an entry, say so, and go on when the file ``go`` is there."""
    return _hold(ctx, folder, atomic=False)


@activity("HeldAtomic", atomic=True)
def held_atomic(ctx, folder):
    """Do the same in one transaction with the completion."""
    return _hold(ctx, folder, atomic=True)


@activity("Suicide")
def suicide(ctx, _):
    """Take the whole process along, each time."""
    os.kill(os.getpid(), signal.SIGKILL)


@orchestration("Run")
def run(ctx, given):
    """Run one activity: ``[name, input]``."""
    name, value = given
    return (yield ctx.schedule_activity(name, value))


@orchestration("Deadly")
def deadly(ctx, _):
    """Die in the middle of a turn, each time."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield ctx.schedule_timer(1)


@orchestration("Hanging")
def hanging(ctx, wait):
    """Never come to the first yield; ``wait``: only after an activity has ended."""
    if wait:
        yield ctx.schedule_activity("Note", "before")
    while True:
        pass


#: The code that is deployed: the history of "Changing" fits one of them only.
DEPLOYED = os.environ.get("CHAOS_CODE", "old")


@orchestration("Changing")
def changing(ctx, _):
    """Wait for an event between two steps, the first of which an unlucky deploy changes."""
    first = "Do" if DEPLOYED == "old" else "Note"
    total = yield ctx.schedule_activity(first, "first")
    yield ctx.wait_for_event("go")
    return total + (yield ctx.schedule_activity("Note", "last"))


@orchestration("Big")
def big(ctx, size):
    """Hand a payload of so many characters through an activity and a queue."""
    text = yield ctx.schedule_activity("Echo", "x" * size)
    message = yield ctx.dequeue_event("in")
    return len(text) + len(message)


@orchestration("Reader")
def reader(ctx, count):
    """Take so many messages out of a queue, in order."""
    for number in range(count):
        message = yield ctx.dequeue_event("in")
        assert message == number
    return count


@orchestration("Frozen")
def frozen(ctx, _):
    """Stop the whole process in the middle of a turn, each time."""
    # To this thread: another one would be stopped first, and this one a little later.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    yield ctx.schedule_timer(1)


@orchestration("Sequence")
def sequence(ctx, _):
    total = 0
    for number in range(4):
        total += yield ctx.schedule_activity("Note", f"note-{number}")
        total += yield ctx.schedule_activity("Do", f"do-{number}")
    return total


@orchestration("FanOut")
def fan_out(ctx, _):
    tasks = [ctx.schedule_activity("Note", f"note-{number}") for number in range(6)]
    tasks += [ctx.schedule_activity("Do", f"do-{number}") for number in range(4)]
    results = yield ctx.all(tasks)
    return sum(result["ok"] for result in results)


@orchestration("Counter")
def counter(ctx, _):
    tasks = [ctx.schedule_activity("Cross", names) for names in (["left", "right"], ["right", "left"])]
    tasks.append(ctx.schedule_activity("Serial", "serial"))
    results = yield ctx.all(tasks)
    return sum(result["ok"] for result in results)


@orchestration("Leaf")
def leaf(ctx, number):
    yield ctx.schedule_timer(20 * number)
    return (yield ctx.schedule_activity("Note", f"note-{number}"))


@orchestration("Family")
def family(ctx, _):
    results = yield ctx.all([ctx.schedule_sub_orchestration("Leaf", number) for number in range(3)])
    total = sum(result["ok"] for result in results)
    return total + (yield ctx.schedule_activity("Note", "parent"))


@orchestration("Sleeper")
def sleeper(ctx, _):
    total = 0
    for number in range(3):
        yield ctx.schedule_timer(100 + 150 * number)
        total += yield ctx.schedule_activity("Note", f"note-{number}")
    return total


@orchestration("Listener")
def listener(ctx, _):
    yield ctx.wait_for_event("go")
    yield ctx.schedule_activity("Note", "went")
    # A client whose connection broke in the commit sends again: at least once.
    seen = []
    while len(seen) < 3:
        message = yield ctx.dequeue_event("in")
        if message not in seen:
            seen.append(message)
            yield ctx.schedule_activity("Note", f"heard-{message}")
    return sorted(seen)


@orchestration("Renewer")
def renewer(ctx, state):
    round_number, total = state or (0, 0)
    total += yield ctx.schedule_activity("Note", f"round-{round_number}")
    ctx.set_kv_value("round", str(round_number))
    if round_number < 3:
        yield ctx.continue_as_new([round_number + 1, total])
    return total


@orchestration("Retrier")
def retrier(ctx, _):
    policy = {"max_attempts": 5, "backoff": "fixed", "initial_delay_ms": 50}
    total = yield ctx.schedule_activity_with_retry("Flaky", "flaky", policy)
    return total + (yield ctx.schedule_activity("Note", "after"))


@orchestration("Racer")
def racer(ctx, _):
    winner = yield ctx.race(ctx.wait_for_event("never"), ctx.schedule_timer(150))
    yield ctx.schedule_activity("Note", "raced")
    return winner["index"]


@orchestration("Patient")
def patient(ctx, _):
    """Wait for an event and return it."""
    return (yield ctx.wait_for_event("go"))


@orchestration("Waiter")
def waiter(ctx, _):
    yield ctx.schedule_activity("Note", "waits")
    return (yield ctx.wait_for_event("never"))


def _steps(prefix, count):
    return {f"{prefix}-{number}" for number in range(count)}


#: Orchestration: (output, atomic steps, other steps); output None: it waits for ever.
EXPECTED = {
    "Sequence": (8, _steps("note", 4), _steps("do", 4)),
    "FanOut": (10, _steps("note", 6), _steps("do", 4)),
    "Family": (4, {"parent"}, set()),
    "Sleeper": (3, _steps("note", 3), set()),
    "Listener": ([0, 1, 2], {"went", *_steps("heard", 3)}, set()),
    "Renewer": (4, _steps("round", 4), set()),
    "Retrier": (2, {"after"}, set()),
    "Racer": (1, {"raced"}, set()),
    "Counter": (3, set(), set()),
    "Waiter": (None, {"waits"}, set()),
}
#: What the children of a Family write, as its own are.
LEAF_STEPS = _steps("note", 3)
#: How often a Counter raises each tally.
TALLIES = {"left": 2, "right": 2, "serial": 1}
