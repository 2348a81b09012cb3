"""What it costs to stand by: an idle worker, with and without waiting instances; coming back to a long history."""

import time

from benchmarks.engines import base
from benchmarks.measures import LESS, Measure

#: A worker that has just started looks about first.
COLD_SETTLE_S = 2.0


def idle(session, runs):
    """The CPU time and the transactions of a worker that has nothing to do; without, then with waiting instances."""
    session.work()
    yield from _windows(session, runs, "0")
    wanted = session.sizes.waiting or session.adapter.waiting_instances
    waiting = _make_waiting(session, min(wanted, session.adapter.waiting_instances))
    note = "" if waiting == 100_000 else f"{waiting:,} waiting"
    yield from _windows(session, runs, "100,000", note)


def _make_waiting(session, wanted):
    limit_s = session.sizes.preparation_s
    ends = time.monotonic() + limit_s
    many = session.client.call(
        "start_many", prefix="waiting", count=wanted, workflow=base.WAITING, argument=None, timeout_s=limit_s
    )
    started = many or session.client.call(
        "starts",
        prefix="waiting",
        count=wanted,
        workflow=base.WAITING,
        argument=None,
        limit_s=limit_s,
        timeout_s=limit_s + 60,
    )
    waiting, _ = session.wait_for(session.adapter.waiting_sql, started["count"], max(30.0, ends - time.monotonic()))
    return waiting


def _windows(session, runs, how_many, note=""):
    time.sleep(session.sizes.idle_settle_s)
    what = f"idle, {how_many} waiting"
    for _ in range(runs):
        began, cpu = time.monotonic(), session.cpu_s()
        counts, transactions = session.database.counts(), session.database.transactions(session.store)
        time.sleep(session.sizes.idle_s)
        passed = time.monotonic() - began
        if cpu is not None:
            yield Measure(
                f"{what}: CPU of the worker", "% of a core", _percent(session.cpu_s(), cpu, passed), LESS, note
            )
        if counts is not None and counts.cpu_s is not None:
            used = _percent(session.database.counts().cpu_s, counts.cpu_s, passed)
            yield Measure(f"{what}: CPU of PostgreSQL", "% of a core", used, LESS, note)
        if transactions is not None:
            more = session.database.transactions(session.store) - transactions
            yield Measure(f"{what}: transactions", "/s", more / passed, LESS, note)
    if (memory := session.rss_mib()) is not None:
        yield Measure(f"{what}: worker's memory", "MiB", memory, LESS, note)


def _percent(after, before, seconds):
    return (after - before) / seconds * 100


def resume(session):
    """A worker that has never seen an instance of 10,000 events gets its next message."""
    sizes = session.sizes
    session.work()
    argument = {"steps": sizes.resume_steps, "then_wait": True}
    session.client.call("start", instance="long", workflow=base.SEQUENCE, argument=argument)
    session.client.call(
        "wait_until_waiting", instance="long", limit_s=sizes.preparation_s, timeout_s=sizes.preparation_s + 5
    )
    session.end_workers()
    session.work()
    time.sleep(COLD_SETTLE_S)
    seconds = session.client.call("resume", instance="long")
    yield Measure(f"resume of {sizes.resume_steps * 2:,} events on a cold worker", "s", seconds, LESS)
