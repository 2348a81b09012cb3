"""A chaos run: feed, strike, wait, count. Imported once the environment names the database."""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import django

django.setup()

from django.db import DatabaseError, InterfaceError, connection  # noqa: E402 - Django must be set up first

from duroxide_django import Client  # noqa: E402
from duroxide_django.storage.database import Database  # noqa: E402
from duroxide_django.testing import assert_healthy  # noqa: E402
from tests.chaos.faults import Faults  # noqa: E402
from tests.chaos.work.models import Tally  # noqa: E402
from tests.chaos.work.workflows import EXPECTED, LEAF_STEPS, TALLIES  # noqa: E402
from tests.chaos.workers import Workers  # noqa: E402

T = TypeVar("T")
_POLL_S = 0.5
_BATCH = 50


class Run:
    """One run on one database."""

    def __init__(
        self,
        options: argparse.Namespace,
        environment: dict[str, str],
        log: Path,
        faults: Faults,
        stop: threading.Event,
    ) -> None:
        self.options = options
        self.environment = environment
        self.log = log
        self.faults = faults
        self.dice = random.Random(options.seed)
        self.client = Client()
        self.stop = stop
        self.crashes: list[str] = []
        self.done: Counter[str] = Counter()
        names = list(EXPECTED)
        self.instances = {f"{names[n % len(names)]}-{n}": names[n % len(names)] for n in range(options.instances)}

    def run(self) -> list[str]:
        """Return what went wrong."""
        options = self.options
        self.say(f"{options.instances} instances, {options.workers} workers, seed {options.seed}")
        self.client.db.connection.ensure_connection()
        Tally.objects.bulk_create(Tally(name=name) for name in TALLIES)
        began = time.monotonic()
        workers = Workers(self.environment, self.log, count=options.workers)
        strikers = [threading.Thread(target=self.guard, args=(self.strike, workers))]
        if options.faults:
            strikers.append(threading.Thread(target=self.guard, args=(self.hurt,)))
        for striker in strikers:
            striker.start()
        try:
            self.feed()
            ended = self.wait(began)
        finally:
            self.stop.set()
            for striker in strikers:
                striker.join()
            workers.stop()
        self.done += workers.done + self.faults.done
        took = time.monotonic() - began
        self.say(f"{took:.0f} s; " + ", ".join(f"{what}: {count}" for what, count in sorted(self.done.items())))
        problems = [*self.crashes]
        if not ended:
            problems.append(f"not all instances ended within {options.timeout:.0f} s: {self.open()[:20]}")
        return problems + self.count()

    def say(self, text: str) -> None:
        sys.stdout.write(f"{self.options.database}: {text}\n")
        sys.stdout.flush()

    # What happens

    def guard(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run a thread's work; its death is a problem of the run."""
        try:
            action(*arguments)
        except Exception as exc:
            self.crashes.append(f"{action.__name__} died: {exc!r}")
            raise
        finally:
            connection.close()

    def strike(self, workers: Workers) -> None:
        """Hurt workers until told to stop."""
        while not self.stop.wait(self.options.every * self.dice.uniform(0.7, 1.3)):
            if self.most_are_ready(workers):
                workers.strike(self.dice, 2 * self.options.lease_ms / 1000, self.stop)
            workers.replace_dead()

    def hurt(self) -> None:
        """Hurt the database until told to stop, so often at the most."""
        while self.faults.rounds < self.options.faults and not self.stop.wait(self.options.pause):
            self.faults.strike()

    def most_are_ready(self, workers: Workers) -> bool:
        """Tell whether all workers but one have begun: on a slow machine nothing would get done otherwise."""
        try:
            begun = {pid for (pid,) in self.fetch("SELECT pid FROM duroxide_worker")}
        except (DatabaseError, InterfaceError):
            connection.close()
            return True
        return len(begun & workers.pids) >= max(1, self.options.workers - 1)

    def feed(self) -> None:
        """Start everything, and send what the listeners wait for."""
        ids = list(self.instances)
        for first in range(0, len(ids), _BATCH):
            batch = ids[first : first + _BATCH]
            self.insist(self._start, batch)
            for instance_id in batch:
                if self.instances[instance_id] == "Listener":
                    self.insist(self.client.raise_event, instance_id, "go")
                    for number in range(3):
                        self.insist(self.client.enqueue_event, instance_id, "in", number)

    def _start(self, batch: list[str]) -> None:
        # A commit whose answer was lost may have started them.
        missing = [name for name in batch if self.client.get_status(name).status == "NotFound"]
        self.client.start_many([(name, self.instances[name], None) for name in missing])

    def insist(self, action: Callable[..., T], *arguments: Any) -> T:
        """Return what ``action(*arguments)`` returns, trying again while the database is away."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return action(*arguments)
            except (DatabaseError, InterfaceError):
                if time.monotonic() > deadline:
                    raise
                connection.close()
                self.done["client tried again"] += 1
                time.sleep(0.1)

    def wait(self, began: float) -> bool:
        """Wait until all that can end has ended; returns whether it has."""
        while time.monotonic() - began < self.options.timeout:
            if self.crashes:
                return False
            hurt = self.faults.rounds >= self.options.faults and time.monotonic() - began > self.options.least
            if not self.insist(self.open) and hurt:
                return True
            time.sleep(_POLL_S)
        return False

    def open(self) -> list[str]:
        """Return the instances that should have ended and have not."""
        rows = self.fetch("SELECT instance_id, name FROM duroxide_instance WHERE status = 'Running'")
        settled = {
            name
            for (name,) in self.fetch(
                "SELECT instance_id FROM chaos_entry WHERE step = 'waits' AND atomic = %s", [True]
            )
        }
        return [instance for instance, name in rows if not (name == "Waiter" and instance in settled)]

    # What is counted

    def fetch(self, sql: str, parameters: Any = ()) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()

    def count(self) -> list[str]:
        """Return everything that is not as it should be."""
        problems = [
            *self._check_results(),
            *self._check_entries(),
            *self._check_tallies(),
            *self._check_histories(),
            *self._check_log(),
        ]
        try:
            assert_healthy(Database("default"))
        except AssertionError as exc:
            problems.append(str(exc))
        return problems

    def _check_results(self) -> list[str]:
        problems = []
        statuses: Counter[str] = Counter()
        for instance_id, name in self.instances.items():
            expected = EXPECTED[name][0]
            result = self.client.get_status(instance_id)
            statuses[result.status] += 1
            if expected is None:
                waits = [(item.kind, item.name) for item in self.client.list_pending(instance_id)]
                if waits != [("event", "never")]:
                    problems.append(f"{instance_id} is {result.status} and waits for {waits}")
            elif (result.status, result.output) != ("Completed", expected):
                why = f"{result.status}, {result.output!r}, {result.error}"
                problems.append(f"{instance_id} should give {expected!r}: {why}")
        self.say("instances: " + ", ".join(f"{status} {count}" for status, count in sorted(statuses.items())))
        return problems

    def _check_entries(self) -> list[str]:
        entries: Counter[tuple[str, str, bool]] = Counter()
        for instance_id, step, atomic in self.fetch("SELECT instance_id, step, atomic FROM chaos_entry"):
            entries[instance_id, step, bool(atomic)] += 1
        children = self.fetch("SELECT instance_id FROM duroxide_instance WHERE name = 'Leaf'")
        expected = {(name, step, True) for name, kind in self.instances.items() for step in EXPECTED[kind][1]}
        expected_plain = {(name, step, False) for name, kind in self.instances.items() for step in EXPECTED[kind][2]}
        problems = [f"{key} was written {entries[key]} times, not once" for key in expected if entries[key] != 1]
        problems += [f"{key} was never written" for key in expected_plain if not entries[key]]
        leaves = {name for (name,) in children}
        notes = [(key, count) for key, count in entries.items() if key[0] in leaves]
        families = sum(kind == "Family" for kind in self.instances.values())
        if len(notes) != families * len(LEAF_STEPS) or any(count != 1 for _, count in notes):
            problems.append(f"children wrote {len(notes)} steps, not {families * len(LEAF_STEPS)}, or one twice")
        strangers = set(entries) - expected - expected_plain - {key for key, _ in notes}
        problems += [f"{key} was written, but nobody asked for it" for key in strangers]
        repeated = sum(entries[key] - 1 for key in expected_plain if entries[key])
        self.say(
            f"atomic rows: {sum(entries[key] for key in expected)} of {len(expected)}, and {len(notes)} of children; "
            f"other activities: {len(expected_plain)}, run again {repeated} times"
        )
        return problems

    def _check_tallies(self) -> list[str]:
        counters = sum(kind == "Counter" for kind in self.instances.values())
        found = dict(Tally.objects.filter(name__in=TALLIES).values_list("name", "value"))
        self.say("tallies: " + ", ".join(f"{name} {found[name]} of {n * counters}" for name, n in TALLIES.items()))
        wrong = {name: value for name, value in found.items() if value != TALLIES[name] * counters}
        return [f"tally {name} is {value}, not {TALLIES[name] * counters}" for name, value in wrong.items()]

    def _check_log(self) -> list[str]:
        """Count what workers said: of an outage each says once that it began, and once that it is over."""
        lines = self.log.read_text(errors="replace").splitlines()
        began = sum("The database failed; waiting for it" in line for line in lines)
        over = sum("The database answers again" in line for line in lines)
        deaf = sum("Listening for wake-ups failed" in line for line in lines)
        traces = sum(line.startswith("Traceback") for line in lines)
        self.say(
            f"workers' log: {len(lines)} lines; database away {began}, back {over}, deaf {deaf}, tracebacks {traces}"
        )
        # What is done to them here is foreseen: none of it is an error without a name.
        return [f"the workers' log has {traces} tracebacks: {self.log}"] if traces else []

    def _check_histories(self) -> list[str]:
        twice = self.fetch(
            """
            SELECT i.instance_id, h.execution_id, h.source_event_id, COUNT(*)
            FROM duroxide_history h JOIN duroxide_instance i ON i.id = h.instance_id
            WHERE h.kind IN ('ActivityCompleted', 'ActivityFailed', 'TimerFired', 'SubOrchestrationCompleted',
                'SubOrchestrationFailed', 'QueueEventDelivered')
            GROUP BY i.instance_id, h.execution_id, h.source_event_id HAVING COUNT(*) > 1"""
        )
        gaps = self.fetch(
            """
            SELECT i.instance_id, h.execution_id, COUNT(*), MAX(h.event_id)
            FROM duroxide_history h JOIN duroxide_instance i ON i.id = h.instance_id
            GROUP BY i.instance_id, h.execution_id HAVING COUNT(*) <> MAX(h.event_id)"""
        )
        left = self.fetch(
            """
            SELECT i.instance_id, t.name FROM duroxide_activity_task t JOIN duroxide_instance i ON i.id = t.instance_id
            WHERE i.status IN ('Completed', 'Failed')"""
        )
        (events,) = self.fetch("SELECT COUNT(*) FROM duroxide_history")[0]
        self.say(f"{events} events; results counted twice: {len(twice)}; gaps: {len(gaps)}; tasks left: {len(left)}")
        problems = [f"{row[0]}/{row[1]}: event {row[2]} has {row[3]} results" for row in twice]
        problems += [f"{row[0]}/{row[1]} has {row[2]} events up to {row[3]}" for row in gaps]
        return problems + [f"{row[0]} has ended but its task {row[1]} is left" for row in left]
