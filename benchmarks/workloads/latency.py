"""How long one user waits: start to completion, message to reply; the worker is another process, idle before."""

from benchmarks.measures import LESS, Measure, percentile


def latency(session):
    """From the call that starts an instance of one activity to its result, seen by the client."""
    session.work()
    limit_s = session.sizes.limit_s
    taken = session.client.call("latencies", samples=session.sizes.latency, limit_s=limit_s, timeout_s=limit_s + 70)
    yield from _percentiles("start to completion", taken, session.sizes.latency)


def queue(session):
    """From the call that sends a message to the custom status that answers it, seen by the client."""
    session.work()
    limit_s = session.sizes.limit_s
    messages = session.sizes.queue + 3
    waiting = session.client.call("open_mailbox", instance="mailbox", messages=messages, timeout_s=limit_s)
    seen, _ = session.wait_for(session.adapter.waiting_sql, waiting, limit_s)
    if seen < waiting:
        raise RuntimeError(f"Only {seen} of {waiting} instances wait for a message after {limit_s} s.")
    taken = session.client.call(
        "round_trips", instance="mailbox", messages=messages, limit_s=limit_s, timeout_s=limit_s + 70
    )
    yield from _percentiles("message to status", taken, session.sizes.queue)


def _percentiles(name, taken, wanted):
    note = "" if len(taken) >= wanted else f"{len(taken)} samples"
    for share in (0.50, 0.99):
        found = percentile(taken, share)
        milliseconds = None if found is None else found * 1000
        yield Measure(f"{name}, p{share * 100:.0f}", "ms", milliseconds, LESS, note)
