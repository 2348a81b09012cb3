"""Runs the workloads: for each workload and backend, run after run, the engines taking turns."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engines import TUNED, base_name, engine_class
from benchmarks.measures import Figure, Sizes
from benchmarks.processes import CallFailedError, TookTooLongError
from benchmarks.session import open_session
from benchmarks.workloads import WORKLOADS


@dataclass(slots=True)
class Row:
    """One measure on one backend, for all engines."""

    workload: str
    name: str
    unit: str
    better: str
    figures: dict[str, Figure] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What is to be run.

    Attributes:
        engines: names, this project's first.
        pythons: the interpreter of each engine.
        path: a folder to be put before the PATH of the engines' processes.
    """

    engines: list[str]
    workloads: list[str]
    runs: int
    sizes: Sizes
    workers: int
    pythons: dict[str, Path]
    path: str = ""


class Runner:
    """Runs a plan; collects rows by backend, in the order in which they were first seen."""

    def __init__(self, plan, directory):
        self.plan = plan
        self.directory = directory
        self.rows: dict[str, dict[str, Row]] = {}
        #: (backend, workload, engine) -> why no more runs are made.
        self.given_up: dict[tuple[str, str, str], str] = {}
        #: The same -> measures that took too long once.
        self.too_slow: dict[tuple[str, str, str], set[str]] = {}

    def run(self, databases):
        """Run everything on these backends."""
        for backend, database in databases.items():
            self.rows[backend] = {}
            for workload in self.plan.workloads:
                self._run_workload(database, workload)

    def _run_workload(self, database, workload):
        runs = 1 if WORKLOADS[workload].once else self.plan.runs
        for run in range(1, runs + 1):
            for engine in self.plan.engines:
                key = (database.backend, workload, engine)
                if key in self.given_up:
                    continue
                why = self._why_not(engine, workload, database.backend)
                if why:
                    self.given_up[key] = why
                    continue
                self._run_once(database, workload, engine, run)

    def _why_not(self, engine, workload, backend):
        adapter = engine_class(engine)
        if backend not in adapter.backends:
            return "not on this database"
        return adapter.missing.get(workload)

    def _run_once(self, database, workload, engine, run):
        adapter_class = engine_class(engine)
        began = time.monotonic()
        say(f"{database.backend:8} {workload:10} {engine:20} run {run} … ", end="")
        try:
            with open_session(
                adapter_class,
                engine,
                database,
                label=f"{workload}-{run}",
                tuned=engine.endswith(TUNED),
                sizes=self.plan.sizes,
                python=self.plan.pythons[base_name(engine)],
                directory=self.directory,
                path=self.plan.path,
                workers=self.plan.workers,
            ) as session:
                session.too_slow = self.too_slow.setdefault((database.backend, workload, engine), set())
                extra = (self.plan.runs,) if WORKLOADS[workload].once else ()
                headline = self._collect(database.backend, workload, engine, WORKLOADS[workload].run(session, *extra))
        except (CallFailedError, TookTooLongError, RuntimeError) as exc:
            self.given_up[database.backend, workload, engine] = str(exc).strip().splitlines()[0]
            say(f"FAILED\n{exc}")
            return
        say(f"{headline}  ({time.monotonic() - began:.1f} s)")

    def _collect(self, backend, workload, engine, measures):
        headline = ""
        remark = engine_class(engine).remarks.get(workload, "")
        for measure in measures:
            row = self.rows[backend].setdefault(measure.name, Row(workload, measure.name, measure.unit, measure.better))
            figure = row.figures.setdefault(engine, Figure())
            figure.add(measure)
            if remark and remark not in figure.notes:
                figure.notes.append(remark)
            value = measure.note if measure.value is None else f"{measure.value:,.4g} {measure.unit}"
            headline = headline or f"{measure.name}: {value}"
            if measure.stopped:
                self.too_slow[backend, workload, engine].add(measure.name)
        return headline or "took too long before"


def say(text, end="\n"):
    """Tell whoever waits how far it is."""
    print(text, end=end, file=sys.stderr, flush=True)
