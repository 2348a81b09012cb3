"""``manage.py checkreplay``: before a deploy, tell whether live instances replay on this code."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from duroxide_django.client import Client
from duroxide_django.exceptions import DuroxideError
from duroxide_django.management._output import as_json, table
from duroxide_django.management._replay import check
from duroxide_django.registry import default_registry

#: Exit code when an instance does not replay.
DOES_NOT_REPLAY = 4


class Command(BaseCommand):
    """Exit codes: 0 every instance replays; 1 the check failed; 2 wrong command line; 4 some do not replay."""

    help = (
        "Replay the histories of running instances on the code of this process, for example against a copy of the "
        "production database before a deploy. Reads only. Exit code 4 if an instance would not go on."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--name", help="Only this orchestration.")
        parser.add_argument("--limit", type=int, help="Only so many instances, the oldest.")
        parser.add_argument("--using", help="Database alias (default: DUROXIDE['DATABASE']).")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        try:
            db = Client(using=options["using"]).db
            checked = list(check(db, default_registry, name=options["name"], limit=options["limit"]))
        except (DuroxideError, DatabaseError) as exc:
            raise CommandError(str(exc)) from exc
        bad = [entry for entry in checked if entry.problem is not None]
        if options["as_json"]:
            self.stdout.write(as_json({"checked": len(checked), "problems": bad}))
        else:
            if bad:
                rows = [(entry.instance_id, entry.name, entry.version, entry.problem, entry.message) for entry in bad]
                self.stdout.write(table(("INSTANCE", "ORCHESTRATION", "VERSION", "PROBLEM", "MESSAGE"), rows))
            self.stdout.write(f"{len(checked)} instance(s) checked, {len(bad)} would not go on.")
        if bad:
            raise SystemExit(DOES_NOT_REPLAY)
