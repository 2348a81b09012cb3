"""``manage.py pruneinstances``: delete ended instances that nobody needs any more."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from duroxide_django.client import Client
from duroxide_django.conf import settings
from duroxide_django.exceptions import DuroxideError
from duroxide_django.management._output import as_json, table
from duroxide_django.retention_client import PruneInstancesResult

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class Command(BaseCommand):
    """Exit codes: 0 done; 1 refused or failed, what was deleted before stays deleted; 2 wrong command line."""

    help = (
        "Delete families of ended instances (a root with all its descendants) that ended long enough ago. Running "
        "ones are never touched. Works in small transactions; may be interrupted and run again, by cron for example."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        chosen = parser.add_mutually_exclusive_group(required=True)
        chosen.add_argument(
            "--older-than", type=_age_ms, metavar="AGE", help="Ended longer ago: 90s, 10m, 12h, 30d, 8w."
        )
        chosen.add_argument("--policy", action="store_true", help="What DUROXIDE['RETENTION'] no longer keeps.")
        parser.add_argument("--name", help="Only roots of this orchestration.")
        parser.add_argument("--status", choices=["Completed", "Failed"], help="Only roots that ended so.")
        parser.add_argument("--limit", type=_count, help="At the most so many families.")
        parser.add_argument("--batch", type=_count, default=100, help="Families in one transaction (default 100).")
        parser.add_argument("--dry-run", action="store_true", help="Delete nothing, only count.")
        parser.add_argument("--using", help="Database alias (default: DUROXIDE['DATABASE']).")
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        try:
            result = self._prune(Client(using=options["using"]), options)
        except (DuroxideError, DatabaseError) as exc:
            raise CommandError(str(exc)) from exc
        if options["as_json"]:
            self.stdout.write(as_json(result))
            return
        self.stdout.write("Would be deleted:" if options["dry_run"] else "Deleted:")
        names = [name for name in result.__dataclass_fields__ if name != "orchestrations"]
        headings = ["ORCHESTRATION", *(name.removesuffix("_deleted").replace("_", " ").upper() for name in names)]
        rows = [
            (orchestration, *(getattr(counts, name) for name in names))
            for orchestration, counts in [*result.orchestrations.items(), ("total", result)]
        ]
        self.stdout.write(table(headings, rows))

    @staticmethod
    def _prune(client: Client, options: dict[str, Any]) -> PruneInstancesResult:
        how: dict[str, Any] = {
            "limit": options["limit"],
            "batch_size": options["batch"],
            "dry_run": options["dry_run"],
        }
        if not options["policy"]:
            before = max(0, client.db.now_ms() - options["older_than"])
            return client.prune_instances(before, name=options["name"], status=options["status"], **how)
        if options["name"] or options["status"]:
            raise CommandError("--policy goes by DUROXIDE['RETENTION']; --name and --status don't go with it.")
        if not settings.RETENTION:
            raise CommandError("DUROXIDE['RETENTION'] is empty; nothing says what to delete.")
        return client.apply_retention(**how)


def _age_ms(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhdw])", text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no age; write a whole number with s, m, h, d or w, for example 30d")
    return int(found[1]) * _UNITS_MS[found[2]]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)
