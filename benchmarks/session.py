"""One measurement of one engine: an empty database, a client process, and one worker process (or more)."""

import time
from contextlib import contextmanager

from benchmarks.processes import Child

#: Pauses between two looks at the tables, as a share of the time that has passed and in seconds.
_SHARE, _SHORTEST_S, _LONGEST_S = 0.01, 0.005, 0.25
READY_PATIENCE_S = 60


class Session:
    """What a workload works with.

    Attributes:
        adapter: of the engine, for what it says about it.
        database: the backend.
        store: the empty database.
        sizes: how large the workloads are.
        workers: the worker processes.
    """

    def __init__(self, adapter, database, store, sizes, spawn, workers):
        self.adapter = adapter
        self.database = database
        self.store = store
        self.sizes = sizes
        self._spawn = spawn
        self._count = workers
        self.workers = []
        #: Names of measures that took too long in an earlier run.
        self.too_slow = set()
        self.client = spawn("client")
        self._all = [self.client]

    def hire(self):
        """Start the worker processes and let them import and connect, but not work yet."""
        self.workers = [self._spawn("worker") for _ in range(self._count)]
        self._all += self.workers
        for worker in self.workers:
            worker.call("connect", timeout_s=READY_PATIENCE_S)

    def work(self):
        """Have the workers work; returns the moment before the first one began."""
        if not self.workers:
            self.hire()
        return min([worker.call("work", timeout_s=READY_PATIENCE_S) for worker in self.workers])

    def wait_for(self, sql, target, limit_s, *, worker_must_live=True):
        """Wait until ``sql`` counts ``target``; returns the last count and when it was seen."""
        began = time.monotonic()
        with self.database.observer(self.store) as look:
            while True:
                count, now = look(sql), time.monotonic()
                passed = now - began
                if count >= target or passed > limit_s:
                    return count, now
                if worker_must_live and any(worker.process.poll() is not None for worker in self.workers):
                    raise RuntimeError(f"A worker died:\n{self.workers[0].tail()}")
                pause = passed * _SHARE
                if count:
                    # Few looks while there is much left: they cost the server time.
                    pause = max(pause, passed / count * (target - count) / 2)
                time.sleep(min(max(pause, _SHORTEST_S), _LONGEST_S))

    def wait_for_end(self, workflow, target, limit_s):
        """Wait until ``target`` instances of ``workflow`` have completed; see wait_for()."""
        return self.wait_for(self.adapter.ended_sql.format(workflow=workflow), target, limit_s)

    def cpu_s(self):
        """Return the CPU seconds of the workers so far, or None."""
        used = [worker.cpu_s() for worker in self.workers]
        return None if None in used else sum(used)

    def rss_mib(self):
        """Return the largest worker's memory, or None."""
        used = [worker.rss_mib() for worker in self.workers]
        return None if None in used else max(used)

    def end_workers(self):
        """Stop the workers as a deploy does."""
        for worker in self.workers:
            worker.end()
        self._all = [child for child in self._all if child not in self.workers]
        self.workers = []

    def end(self, *, patiently=True):
        """End all processes; their figures have been taken."""
        for child in self._all:
            child.end(patiently=patiently)
        self._all, self.workers = [], []


@contextmanager
def open_session(adapter_class, engine, database, *, label, tuned, sizes, python, directory, path, workers):
    """Yield a Session; everything it started has ended afterwards."""
    with database.store(f"{label}-{engine}") as store:
        log = directory / f"{label}-{engine}-{database.backend}.log"

        def spawn(role):
            return Child(python, engine, store, log.with_suffix(f".{role}.log"), path)

        first = spawn("prepare")
        try:
            first.call("prepare")
        finally:
            first.end()
        session = Session(adapter_class(store, tuned), database, store, sizes, spawn, workers)
        try:
            yield session
        finally:
            session.end(patiently=False)
