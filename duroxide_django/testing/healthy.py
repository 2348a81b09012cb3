"""assert_healthy(): the invariant of design section 8, for tests."""

from __future__ import annotations

from duroxide_django.conf import settings
from duroxide_django.storage import health, invariant
from duroxide_django.storage.database import Database


def assert_healthy(db: Database | str | None = None) -> None:
    """Fail unless every non-terminal instance has a way forward and no scheduled work is lost.

    That is: each has a visible or scheduled message, a task, an open subscription or a pending child, none is blocked,
    and every activity and child that a history waits for still has a row that brings its result. Workers need not run.

    Args:
        db: the workflows' database or its alias; None: the setting DATABASE.

    Raises:
        AssertionError: with one line for each finding.
    """
    database = db if isinstance(db, Database) else Database(db or settings.DATABASE)
    found = [*invariant.stuck(database), *invariant.lost_work(database), *health.blocked(database)]
    lines = [f"{finding.rule}: {finding.subject}: {finding.why}" for finding in found if finding.severity == "problem"]
    if lines:
        raise AssertionError("Instances without a way forward:\n" + "\n".join(lines))
