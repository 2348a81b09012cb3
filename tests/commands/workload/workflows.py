"""What worker processes do in these tests. Files in a folder tell the test what happens, and activities to go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from duroxide_django import activity, orchestration

#: No test takes so long; an activity that nobody released gives up.
GIVE_UP_S = 60


@activity("Add")
def add(ctx, pair):
    return sum(pair)


@activity("Pid")
def pid(ctx, input):
    return os.getpid()


@activity("Hold")
def hold(ctx, folder):
    """Note the process and the delivery in a file; wait for the file ``release``."""
    place = Path(folder)
    (place / f"{ctx.instance_id}.{ctx.delivery}.tmp").write_text(str(os.getpid()))
    (place / f"{ctx.instance_id}.{ctx.delivery}.tmp").rename(place / f"{ctx.instance_id}.{ctx.delivery}")
    give_up_at = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up_at:
        if (place / "release").exists():
            return ctx.delivery
        if ctx.wait_cancelled(20):
            (place / f"{ctx.instance_id}.cancelled").touch()
            return "cancelled"
    raise TimeoutError("nobody released the activity")


@activity("Nested")
def nested(ctx, input):
    """Run a worker of its own to its end."""
    ended = subprocess.run([sys.executable, *sys.argv[:2], "--drain"], capture_output=True, text=True, check=False)
    return [ended.returncode, ended.stderr]


@orchestration("Sum")
def add_up(ctx, pair):
    return (yield ctx.schedule_activity(add, pair))


@orchestration("Sequence")
def sequence(ctx, steps):
    total = 0
    for _ in range(steps):
        total = yield ctx.schedule_activity(add, [total, 1])
    return total


@orchestration("Holding")
def holding(ctx, folder):
    return (yield ctx.schedule_activity(hold, folder))


@orchestration("InSession")
def in_session(ctx, folder):
    """Tell who ran each activity of a session; the third one is held."""
    session = f"session-{ctx.instance_id}"
    before = yield ctx.all_typed([ctx.schedule_activity(pid, session_id=session) for _ in range(2)])
    yield ctx.schedule_activity(hold, folder, session_id=session)
    after = yield ctx.all_typed([ctx.schedule_activity(pid, session_id=session) for _ in range(3)])
    return [before, after]


@orchestration("WhoAmI")
def who_am_i(ctx, tag):
    ctx.trace_info("asking")
    return (yield ctx.schedule_activity(pid, tag=tag))


@orchestration("Later")
def later(ctx, delay_ms):
    yield ctx.schedule_timer(delay_ms)
    return "later"


@orchestration("Nesting")
def nesting(ctx, input):
    return (yield ctx.schedule_activity(nested, input))
