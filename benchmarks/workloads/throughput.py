"""How much an engine gets done: hello, execution only, sequence, fan-out, starts."""

import time

from benchmarks.engines import base
from benchmarks.measures import LESS, Measure


class Window:
    """The resources used between two moments."""

    def __init__(self, session):
        self._session = session
        self._counts = session.database.counts()
        self._cpu = session.cpu_s()

    def close(self, ended, what, *, stopped=False):
        """Return the measures of resources for each of ``ended`` workflows; ``stopped``: others were begun."""
        cpu, counts = self._session.cpu_s(), self._session.database.counts()
        if not ended:
            return []
        found = []
        if cpu is not None and self._cpu is not None:
            found.append(
                _each(f"{what}: CPU of the worker", "ms each", (cpu - self._cpu) * 1000, ended, stopped=stopped)
            )
        if counts is None:
            return found
        if counts.cpu_s is not None and self._counts.cpu_s is not None:
            used = (counts.cpu_s - self._counts.cpu_s) * 1000
            found.append(_each(f"{what}: CPU of PostgreSQL", "ms each", used, ended, stopped=stopped))
        writes, wal = counts.writes - self._counts.writes, counts.wal_bytes - self._counts.wal_bytes
        found.append(_each(f"{what}: write transactions", "each", writes, ended, stopped=stopped))
        found.append(_each(f"{what}: WAL", "bytes each", wal, ended, stopped=stopped))
        return found


def _each(name, unit, total, count, *, stopped=False):
    return Measure(name, unit, total / count, LESS, stopped=stopped)


def hello(session):
    """1,000 instances of one activity, each started by one call, from the first start to the last completion."""
    if "hello" in session.too_slow:
        return
    session.work()
    sizes = session.sizes
    # Once before: connections and caches are those of a client and a worker that are in use.
    session.client.call("starts", prefix="warm-up", count=1, workflow=base.HELLO, argument="World", limit_s=60)
    session.wait_for_end(base.HELLO, 1, sizes.limit_s)
    transactions, syncs = session.database.transactions(session.store), session.database.syncs()
    window = Window(session)
    started = _start(session, "hello", sizes.hello)
    ended, at = session.wait_for_end(base.HELLO, started["count"] + 1, sizes.limit_s)
    ended -= 1
    resources = window.close(ended, "hello", stopped=ended < sizes.hello)
    yield _rate("hello", ended, sizes.hello, at - started["began"])
    yield from resources
    if (memory := session.rss_mib()) is not None:
        yield Measure("worker's memory after hello", "MiB", memory, LESS)
    if transactions is not None and ended == sizes.hello:
        session.end()
        session.database.wait_for_silence(session.store)
        total = session.database.transactions(session.store) - transactions
        yield _each("hello: transactions, reading ones included", "each", total, ended)
        if syncs is not None:
            yield _each("hello: waits for the disk", "each", session.database.syncs() - syncs, ended)


def execution(session):
    """10,000 instances that have been started already, from the worker's start to the last completion."""
    if "execution only" in session.too_slow:
        return
    sizes = session.sizes
    started = session.client.call(
        "start_many",
        prefix="execution",
        count=sizes.execution,
        workflow=base.HELLO,
        argument="World",
        timeout_s=sizes.preparation_s,
    ) or _start(session, "execution", sizes.execution, limit_s=sizes.preparation_s)
    session.hire()
    window = Window(session)
    began = session.work()
    ended, at = session.wait_for_end(base.HELLO, started["count"], sizes.limit_s)
    yield _rate("execution only", ended, sizes.execution, at - began)
    yield from window.close(ended, "execution only", stopped=ended < sizes.execution)


def sequence(session):
    """One instance of n steps one after another; how the time grows with n."""
    session.work()
    session.client.call("start", instance="warm-up", workflow=base.HELLO, argument="World")
    session.wait_for_end(base.HELLO, 1, session.sizes.limit_s)
    seconds = {}
    for number, steps in enumerate(session.sizes.sequence, 1):
        name = f"sequence of {steps:,}"
        if name in session.too_slow:
            return
        window = Window(session)
        began = time.monotonic()
        session.client.call("start", instance=f"sequence-{steps}", workflow=base.SEQUENCE, argument={"steps": steps})
        ended, at = session.wait_for_end(base.SEQUENCE, number, session.sizes.limit_s)
        if ended < number:
            yield _too_slow(name, "steps/s", session)
            return
        seconds[steps] = at - began
        yield Measure(name, "steps/s", steps / seconds[steps])
        if steps == 1_000:
            yield from window.close(steps, "step of a sequence")
    if {500, 5_000} <= seconds.keys():
        yield Measure("sequence: time(5,000) / time(500)", "", seconds[5_000] / seconds[500], LESS)


def fan_out(session):
    """One instance that schedules 1,000 activities at once and joins them."""
    if "fan-out" in session.too_slow:
        return
    session.work()
    steps = session.sizes.fanout
    session.client.call("start", instance="warm-up", workflow=base.HELLO, argument="World")
    session.wait_for_end(base.HELLO, 1, session.sizes.limit_s)
    window = Window(session)
    began = time.monotonic()
    session.client.call("start", instance="fan-out", workflow=base.FANOUT, argument=steps)
    ended, at = session.wait_for_end(base.FANOUT, 1, session.sizes.limit_s)
    if not ended:
        yield _too_slow("fan-out", "activities/s", session)
        return
    yield Measure("fan-out", "activities/s", steps / (at - began))
    yield from window.close(steps, "fan-out")


def starts(session):
    """One start after another by one thread, while no worker runs; and many by one call, where there is such a call."""
    sizes = session.sizes
    session.client.call("starts", prefix="warm-up", count=3, workflow=base.HELLO, argument="World", limit_s=60)
    began = session.client.cpu_s()
    started = _start(session, "starts", sizes.starts)
    yield Measure("one start after another", "/s", started["count"] / started["seconds"])
    if began is not None:
        used = (session.client.cpu_s() - began) * 1000
        yield _each("one start: CPU of the client", "ms each", used, started["count"])
    many = session.client.call(
        "start_many", prefix="many", count=sizes.start_many, workflow=base.HELLO, argument="World"
    )
    if many is not None:
        yield Measure("start_many", "/s", many["count"] / many["seconds"])


def _start(session, prefix, count, *, limit_s=None):
    limit_s = limit_s or session.sizes.limit_s
    return session.client.call(
        "starts",
        prefix=prefix,
        count=count,
        workflow=base.HELLO,
        argument="World",
        limit_s=limit_s,
        timeout_s=limit_s + 60,
    )


def _rate(name, ended, wanted, seconds):
    """Return the rate of what was done, which may be a part of what was wanted."""
    if ended >= wanted:
        return Measure(name, "/s", ended / seconds)
    return Measure(name, "/s", ended / seconds, note=f"{ended:,} of {wanted:,} in {seconds:.0f} s", stopped=True)


def _too_slow(name, unit, session):
    return Measure(name, unit, None, note=f"more than {session.sizes.limit_s:.0f} s", stopped=True)
