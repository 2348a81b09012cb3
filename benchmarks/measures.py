"""What a workload yields, how large the workloads are, and how figures of several runs become one."""

import statistics
from dataclasses import dataclass, field

MORE, LESS = "more", "less"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of one run.

    Attributes:
        name: what was measured.
        unit: of ``value``.
        value: None if it could not be had; ``note`` says why.
        better: MORE or LESS.
        note: what a reader must know to compare it.
        stopped: it took too long; its next runs are left out.
    """

    name: str
    unit: str
    value: float | None
    better: str = MORE
    note: str = ""
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the workloads are."""

    hello: int = 1_000
    execution: int = 10_000
    sequence: tuple[int, ...] = (50, 500, 1_000, 5_000)
    fanout: int = 1_000
    latency: int = 200
    queue: int = 200
    starts: int = 1_000
    start_many: int = 10_000
    waiting: int | None = None
    idle_s: float = 20.0
    idle_settle_s: float = 5.0
    resume_steps: int = 5_000
    soak_s: float = 600.0
    admin_instances: int = 1_000_000
    admin_events: int = 10_000
    #: A measurement that takes longer is stopped, its next runs are left out.
    limit_s: float = 90.0
    #: The same for bringing a database into the state that is measured.
    preparation_s: float = 400.0


QUICK = Sizes(
    hello=50,
    execution=100,
    sequence=(10, 50),
    fanout=50,
    latency=10,
    queue=10,
    starts=50,
    start_many=200,
    waiting=100,
    idle_s=3.0,
    idle_settle_s=1.0,
    resume_steps=200,
    soak_s=5.0,
    admin_instances=2_000,
    admin_events=300,
    limit_s=30.0,
    preparation_s=30.0,
)


@dataclass(slots=True)
class Figure:
    """The values of all runs of one measure of one engine."""

    values: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: One of the runs was cut short: an engine that works breadth-first has ended nothing until late, so its rate
    #: up to then says little, and no ratio is made of it.
    stopped: bool = False

    def add(self, measure):
        """Take one run's figure in."""
        if measure.value is not None:
            self.values.append(measure.value)
        self.stopped = self.stopped or measure.stopped
        if measure.note and measure.note not in self.notes:
            self.notes.append(measure.note)

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    def as_json(self):
        """Return it as JSON-able data."""
        return {
            "values": self.values,
            "median": self.median,
            "min": min(self.values, default=None),
            "max": max(self.values, default=None),
            "stopped": self.stopped,
            "notes": self.notes,
        }


def ratio(ours, theirs, better):
    """Return how many times better the first figure is, or None."""
    if ours is None or theirs is None or ours.median is None or theirs.median is None:
        return None
    if ours.stopped or theirs.stopped:
        return None
    first, second = (ours.median, theirs.median) if better == MORE else (theirs.median, ours.median)
    return first / second if second else None


def percentile(values, share):
    """Return the value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
