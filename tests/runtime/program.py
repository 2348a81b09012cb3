"""A program under test: functions registered for one test, run by drain() or by runtimes in threads."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import pytest
from django.db import connections, transaction

from duroxide_django import Runtime, RuntimeOptions
from duroxide_django.engine.registry import Registry
from duroxide_django.runtime.claiming import QUICK_TURNS
from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slots import InlineSlots
from duroxide_django.storage.database import Database
from duroxide_django.testing import drain

#: Everything the project stores, for counting rows.
TABLES = [
    "duroxide_instance",
    "duroxide_execution",
    "duroxide_history",
    "duroxide_message",
    "duroxide_activity_task",
    "duroxide_queue_message",
    "duroxide_kv",
    "duroxide_session",
]


class Program:
    """Functions of one test, and the database that their instances live in.

    Attributes:
        alias: the database alias.
        registry: what was registered by the decorators.
    """

    def __init__(self, alias):
        self.alias = alias
        self.registry = Registry()

    def activity(self, name, *, atomic=False):
        def register(function):
            self.registry.add_activity(name, function, atomic=atomic)
            return function

        return register

    def orchestration(self, name, version="1.0.0"):
        def register(function):
            self.registry.add_orchestration(name, function, version)
            return function

        return register

    def drain(self, **options):
        """Run everything in this thread, jumping over timers."""
        return drain(using=self.alias, registry=self.registry, **options)

    def runtime(self, **options):
        """Return a runtime, not started."""
        return Runtime(options=RuntimeOptions(**options), using=self.alias, registry=self.registry)

    def dispatcher(self, **config):
        """Return a worker without a thread: what it does, and when, is up to the test (see ``work``)."""
        return make_dispatcher(self.registry, Database(self.alias), **config)


def make_dispatcher(registry, db, **config):
    """Return a worker without a thread; ``config`` replaces fields of its configuration."""
    resolved = replace(resolve(None), **config)
    return Dispatcher(registry, resolved, db, InlineSlots(registry, resolved, db, lambda: None), Metrics())


def take_for_quick(dispatcher, *names):
    """Let a worker take turns of these orchestrations for quick: it needs no lease for them."""
    for name in names:
        for _ in range(QUICK_TURNS):
            dispatcher.claimer.note_turn(name, 0.0)


def work(dispatcher):
    """Let a worker do all that it can."""
    dispatcher.claims = dispatcher.fetches = True
    while dispatcher.iterate() | dispatcher.slots.work():
        pass


@pytest.fixture
def program(backend):
    """An empty program on this test's backend."""
    return Program(backend)


class Gate:
    """Holds activities until the test lets them go; opens by itself when the test ends."""

    def __init__(self):
        self._open = threading.Event()
        self.entered = threading.Semaphore(0)

    def wait(self):
        """Called by an activity: say that it is here, then wait."""
        self.entered.release()
        assert self._open.wait(30), "nobody opened the gate"

    def wait_entered(self, count=1):
        """Called by the test: wait until ``count`` more activities are at the gate."""
        for _ in range(count):
            assert self.entered.acquire(timeout=10), "no activity came to the gate"

    def open(self):
        self._open.set()


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def start_runtime(program, gate):
    """Start runtimes that serve the program, ``start_runtime(worker_concurrency=2)``; they end with the test."""
    made = []

    def start(**options):
        runtime = program.runtime(**options)
        made.append(runtime)
        runtime.start()
        return runtime

    yield start
    gate.open()
    for runtime in reversed(made):
        runtime.shutdown()


@pytest.fixture
def holder(postgres_url):
    """Another connection to PostgreSQL, which holds locks until its transaction ends."""
    import psycopg

    with psycopg.connect(postgres_url) as holder:
        yield holder


@pytest.fixture
def count_rows(backend):
    """Count the rows of each table, or of one: ``count_rows()``, ``count_rows("duroxide_message")``."""

    def count(table=None):
        with connections[backend].cursor() as cursor:
            found = {}
            for name in [table] if table else TABLES:
                cursor.execute(f"SELECT COUNT(*) FROM {name}")
                found[name] = cursor.fetchone()[0]
        return found[table] if table else found

    return count


class _Undo(Exception):
    """What ends a failing transaction."""


@contextlib.contextmanager
def failing_transaction(alias):
    """A transaction whose block raises at its end; the error stays inside."""
    with contextlib.suppress(_Undo), transaction.atomic(using=alias):
        yield
        raise _Undo


@contextlib.contextmanager
def stopwatch():
    """Measure a block: ``with stopwatch() as took: …``, then ``took()`` gives the seconds."""
    started = time.monotonic()
    ended = []
    yield lambda: (ended[0] if ended else time.monotonic()) - started
    ended.append(time.monotonic())
