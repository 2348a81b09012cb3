"""Asks for the admin's pages as a staff user does, and times what the server does for each."""

from __future__ import annotations

import io
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.admin.fill import LONG


@dataclass(slots=True)
class Watch:
    """What was sent to the database for one page: (milliseconds, statement, parameters) each."""

    queries: list = field(default_factory=list)

    def __call__(self, execute, sql, parameters, many, context):
        began = time.perf_counter()
        try:
            return execute(sql, parameters, many, context)
        finally:
            self.queries.append(((time.perf_counter() - began) * 1000, sql, parameters))

    @property
    def slowest(self):
        return max(self.queries, default=(0.0, "", ()), key=lambda query: query[0])


@dataclass(frozen=True, slots=True)
class Timing:
    """One page: milliseconds of the runs, queries of one run, the slowest query's median."""

    name: str
    milliseconds: list[float]
    queries: int
    slowest_ms: float
    slowest: tuple

    @property
    def median(self):
        return statistics.median(self.milliseconds)


def pages(filled):
    """Return (name, address) of what is measured.

    Args:
        filled: see benchmarks.admin.fill.Filled.
    """
    from django.urls import reverse

    def url(name, *arguments):
        return reverse(f"admin:duroxide_django_{name}", args=arguments)

    listed, one = url("instance_changelist"), url("instance_change", filled.long)
    queries = {
        "second page": f"older={filled.instances // 2}",
        "last page": "newer=1",
        "search, exact id": f"q={filled.example}",
        "search, prefix of all": "q=order-0",
        "search, prefix of the oldest 1,000": "q=order-0001",
        "search, prefix of the oldest tenth": "q=order-00",
        "search, nothing found": "q=nothing",
        "state open": "state=open",
        "state running, last page": "state=running&newer=1",
        "state failed": "state=failed",
        "state cancelled": "state=cancelled",
        "state blocked": "state=blocked",
        "orchestration": "name=Onboarding",
        "rare orchestration": "name=Audit",
        "rare orchestration, failed": "name=Audit&state=failed",
        "version": "name=Checkout&version=2.0.0",
        "version that nobody runs": "name=Checkout&version=0.9.0",
        "open of a version": "state=open&name=Checkout&version=1.0.0",
        "past hour": "started=hour",
        "failed in the past hour": "started=hour&state=failed",
        "past 30 days": "started=month",
        "preset attention": "preset=attention",
        "preset person": "preset=person",
        "preset long": "preset=long",
        "preset retrying": "preset=retrying",
        "preset retrying, one orchestration": "preset=retrying&name=Audit",
    }
    return [
        ("list", listed),
        *((f"list, {name}", f"{listed}?{query}") for name, query in queries.items()),
        ("overview", url("instance_overview")),
        ("admin index", "/admin/"),
        ("instance of a long history", one),
        ("instance, earliest events", f"{one}?after=0"),
        ("instance, events in the middle", f"{one}?before=5000"),
        ("instance of many children", url("instance_change", filled.wide)),
        ("instance, ended", url("instance_change", filled.ended)),
        ("history as JSON", url("instance_history_json", filled.long, 1)),
        ("by id", url("instance_by_id", LONG)),
        ("log", url("instance_history", filled.long)),
        ("queues", url("activitytask_changelist")),
        ("registry", url("instance_registry")),
        ("workers", url("worker_changelist")),
        ("sessions", url("session_changelist")),
    ]


def calls(db):
    """Return (name, function) of the calls and commands that look at the whole store."""
    from django.core.management import call_command

    from duroxide_django import Client

    client = Client(using=db.alias)

    def command(*arguments):
        def run():
            # The exit code says whether something needs attention.
            with suppress(SystemExit):
                call_command(*arguments, stdout=io.StringIO())

        return run

    return [
        ("duroxide list", command("duroxide", "list")),
        ("duroxide list --status Failed", command("duroxide", "list", "--status", "Failed")),
        ("duroxide doctor", command("duroxide", "doctor")),
        ("listversions", command("listversions")),
        ("list_all_instances(limit=100)", lambda: client.list_all_instances(limit=100)),
        ("list_instances_by_status(limit=100)", lambda: client.list_instances_by_status("Running", limit=100)),
        ("get_system_metrics", client.get_system_metrics),
        ("get_queue_depths", client.get_queue_depths),
    ]


def staff():
    """Return a test client in which a superuser is logged in."""
    from django.contrib.auth.models import User
    from django.test import Client

    user, _ = User.objects.get_or_create(username="staff", defaults={"is_staff": True, "is_superuser": True})
    client = Client()
    client.force_login(user)
    return client


def time_all(filled, runs):
    """Return [name, milliseconds of each run, queries, the slowest one's milliseconds] of all pages and calls."""
    from duroxide_django.storage.database import Database

    db, browser = Database("default"), staff()
    timings = [time_page(browser, db, name, address, runs) for name, address in pages(filled)]
    timings += [time_call(db, name, call, runs) for name, call in calls(db)]
    return [[timing.name, timing.milliseconds, timing.queries, timing.slowest_ms] for timing in timings]


def time_page(client, db, name, address, runs):
    """Return the Timing of a page."""

    def get():
        response = client.get(address)
        if response.status_code not in (200, 302):
            raise RuntimeError(f"{name}: {address} answered {response.status_code}.")
        return b"".join(response.streaming_content) if response.streaming else response.content

    return time_call(db, name, get, runs)


def time_call(db, name, call, runs):
    """Return the Timing of a call; it is made once more before, as one that imports and compiles templates."""
    call()
    milliseconds, watches = [], []
    for _ in range(runs):
        watch = Watch()
        with db.connection.execute_wrapper(watch):
            began = time.perf_counter()
            call()
            milliseconds.append((time.perf_counter() - began) * 1000)
        watches.append(watch)
    slowest_ms = statistics.median(watch.slowest[0] for watch in watches)
    return Timing(name, milliseconds, len(watches[-1].queries), slowest_ms, watches[-1].slowest[1:])
