"""``manage.py listversions``: which versions are registered here, and which ones live instances need."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from duroxide_django.client import Client
from duroxide_django.engine.versions import Version
from duroxide_django.exceptions import DuroxideError
from duroxide_django.management._output import as_json, table
from duroxide_django.registry import default_registry

#: Exit code when live instances need code that is missing here.
MISSING = 4


class Command(BaseCommand):
    """Exit codes: 0 done; 1 failed; 2 wrong command line; 4 instances need a version that is not registered."""

    help = (
        "List orchestrations with their versions: registered in this code or not, and how many instances have not "
        "ended. A version without instances may be deleted; exit code 4 if instances need one that is missing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--using", help="Database alias (default: DUROXIDE['DATABASE']).")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        try:
            live = Client(using=options["using"]).count_live_versions()
        except (DuroxideError, DatabaseError) as exc:
            raise CommandError(str(exc)) from exc
        registered = {
            (name, version.text) for name, versions in default_registry.orchestrations.items() for version in versions
        }
        lines = [
            {
                "name": name,
                "version": version,
                "registered": _is_registered(name, version, registered),
                "instances": live.get((name, version), 0),
            }
            for name, version in sorted(registered | set(live), key=_order)
        ]
        if options["as_json"]:
            self.stdout.write(as_json(lines))
        else:
            rows = [
                (
                    line["name"],
                    line["version"] or "latest",
                    "yes" if line["registered"] else "MISSING",
                    line["instances"],
                )
                for line in lines
            ]
            self.stdout.write(table(("ORCHESTRATION", "VERSION", "REGISTERED", "INSTANCES"), rows))
        if any(line["instances"] and not line["registered"] for line in lines):
            raise SystemExit(MISSING)


def _is_registered(name: str, version: str | None, registered: set[tuple[str, str]]) -> bool:
    if version is not None:
        return (name, version) in registered
    return any(known == name for known, _ in registered)


def _order(line: tuple[str, str | None]) -> tuple[str, bool, Any]:
    name, version = line
    return name, version is not None, None if version is None else Version.parse(version)
