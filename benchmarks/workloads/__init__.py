"""The workloads: each is a generator of measures that is given a session."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.workloads import admin, latency, soak, standing, throughput


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload.

    Attributes:
        run: given a session (and, if ``once``, the number of runs), yields measures.
        once: all runs are taken from one session, as its preparation is long.
        extra: run only if it is asked for.
    """

    run: Callable
    once: bool = False
    extra: bool = False


WORKLOADS = {
    "hello": Workload(throughput.hello),
    "execution": Workload(throughput.execution),
    "sequence": Workload(throughput.sequence),
    "fanout": Workload(throughput.fan_out),
    "latency": Workload(latency.latency),
    "queue": Workload(latency.queue),
    "starts": Workload(throughput.starts),
    "idle": Workload(standing.idle, once=True),
    "resume": Workload(standing.resume),
    "soak": Workload(soak.soak, once=True, extra=True),
    "admin": Workload(admin.admin, once=True, extra=True),
}
