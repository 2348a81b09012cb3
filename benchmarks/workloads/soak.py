"""Ten minutes of steady work: does the database stay tidy, does the worker's memory?"""

from benchmarks.engines import base
from benchmarks.measures import LESS, Measure

PARTS = 20
#: A table with its indexes takes that much when it holds next to nothing.
UNUSED_BYTES = 2**17


def soak(session, runs):
    """Hellos from one client for ten minutes: dead rows and memory of the parts, sizes of the tables at the end."""
    session.work()
    started, dead, memory = 0, [], []
    for part in range(PARTS):
        started += _work_for(session, f"soak-{part}", session.sizes.soak_s / PARTS)
        dead.append(_dead(session))
        memory.append(session.rss_mib())
    ended, _ = session.wait_for_end(base.HELLO, started, session.sizes.limit_s)
    yield Measure("soak: started and ended", "/s", ended / session.sizes.soak_s)
    yield Measure("soak: started and not ended", "", started - ended, LESS)
    if None not in memory:
        yield Measure("soak: worker's memory after the first tenth", "MiB", memory[PARTS // 10 - 1], LESS)
        yield Measure("soak: worker's memory at the end", "MiB", memory[-1], LESS)
    if None in dead:
        return
    yield Measure("soak: dead rows, highest of the first half", "", max(dead[: PARTS // 2]), LESS)
    yield Measure("soak: dead rows, highest of the second half", "", max(dead[PARTS // 2 :]), LESS)
    for name, size, rows in session.database.tables(session.store):
        if size < UNUSED_BYTES:
            continue
        yield Measure(f"soak: {name}: size with indexes", "MiB", size / 2**20, LESS)
        yield Measure(f"soak: {name}: dead rows", "", rows, LESS)


def _work_for(session, prefix, seconds):
    return session.client.call(
        "starts",
        prefix=prefix,
        count=10**9,
        workflow=base.HELLO,
        argument="World",
        limit_s=seconds,
        timeout_s=seconds + 60,
    )["count"]


def _dead(session):
    tables = session.database.tables(session.store)
    return None if tables is None else sum(rows for _, _, rows in tables)
