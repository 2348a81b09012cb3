"""The admin of a store of 1,000,000 instances, one of them with a history of 10,000 events."""

from benchmarks.measures import LESS, Measure

#: Filling takes minutes where the disk is slow.
PATIENCE_S = 1_800


def admin(session, runs):
    """Each page as a staff user asks for it: the server's time, how many queries, the slowest of them."""
    sizes = session.sizes
    session.client.call(
        "fill_for_admin", instances=sizes.admin_instances, events=sizes.admin_events, timeout_s=PATIENCE_S
    )
    for name, milliseconds, queries, slowest_ms in session.client.call("time_admin", runs=runs, timeout_s=PATIENCE_S):
        for value in milliseconds:
            yield Measure(name, "ms", value, LESS)
        yield Measure(f"{name}: queries", "", queries, LESS)
        yield Measure(f"{name}: slowest query", "ms", slowest_ms, LESS)
