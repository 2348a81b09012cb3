"""Health: what needs a person's attention, and what would cure it. Nothing here changes a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from duroxide_django.conf import settings
from duroxide_django.exceptions import InvalidArgument
from duroxide_django.options import TagFilter
from duroxide_django.storage.activities import CORRUPT, UNREADABLE
from duroxide_django.storage.blockers import long_transactions
from duroxide_django.storage.clock_steps import hidden_by_clock
from duroxide_django.storage.database import Database, Row
from duroxide_django.storage.findings import MAX_FINDINGS, PROBLEM, WARNING, Finding
from duroxide_django.storage.invariant import IDLE, lost_work, open_windows, stuck
from duroxide_django.storage.payloads import read_blocked, shown
from duroxide_django.storage.shapes import moment
from duroxide_django.storage.workers import announced

#: A worker whose last beat is older is taken for dead, in milliseconds (it beats every 5 s).
LIVE_WORKER_MS = 30_000
#: Work that is due for longer than this without anybody taking it is overdue, in milliseconds.
OVERDUE_MS = 60_000
#: Tries of one entry from which on a person should look, before it ends as poison.
EXPIRING_ATTEMPTS = 3

#: The reason recorded for an instance that an operator paused.
PAUSED = "paused"
#: The reason recorded for an instance of which a row has values that nothing can be done with.
CORRUPT_ROW = "corrupt_row"
#: The reason recorded for an instance whose rows the database refuses.
REFUSED = "refused_by_database"
#: The reason recorded for an instance whose turn could not read what it asked the database for.
DATABASE_FAILED = "database_failed"


@dataclass(slots=True, kw_only=True)
class LiveWorker:
    """What a live worker announced that it serves."""

    id: str
    owner: str
    runs_orchestrations: bool
    tag_filter: TagFilter
    activities: frozenset[str]
    orchestrations: dict[str, list[str]] = field(default_factory=dict)
    slots: int = 0
    slots_used: int = 0

    def serves_activity(self, name: str, tag: str) -> bool:
        """Return whether it takes activities with this name and tag."""
        return name in self.activities and self.tag_filter.accepts(tag)

    def serves_orchestration(self, name: str, version: str | None) -> bool:
        """Return whether it computes this version, or any if it is None."""
        versions = self.orchestrations.get(name, [])
        return bool(versions if version is None else version in versions)


def live_worker(
    key: str, options: dict[str, Any], handlers: dict[str, Any], *, slots_used: int, draining: bool
) -> LiveWorker:
    """Return what a live worker serves: of the functions that it announced, those that it takes work for.

    Args:
        options, handlers: see workers.announced().
        draining: whether it is about to stop: it then takes nothing.
    """
    try:
        tag_filter = TagFilter.parse(options.get("tag_filter"))
    except InvalidArgument:
        tag_filter = TagFilter.parse(TagFilter.NONE)
    slots = options.get("worker_concurrency", 1)
    takes_activities = slots > 0 and not tag_filter.takes_nothing and not draining
    runs_orchestrations = bool(options.get("runs_orchestrations", True)) and not draining
    return LiveWorker(
        id=key,
        owner=options.get("owner", key),
        runs_orchestrations=runs_orchestrations,
        tag_filter=tag_filter,
        activities=frozenset(handlers.get("activities", ())) if takes_activities else frozenset(),
        orchestrations=handlers.get("orchestrations", {}) if runs_orchestrations else {},
        slots=slots,
        slots_used=slots_used,
    )


def examine(db: Database, *, overdue_ms: int = OVERDUE_MS) -> list[Finding]:
    """Return everything that needs attention, problems first.

    Args:
        overdue_ms: how long work may be due before it counts as overdue, milliseconds.
    """
    now_ms = db.now_ms()
    workers, dead = _workers(db, now_ms)
    found = [*stuck(db), *lost_work(db), *blocked(db)]
    found += _unserved_orchestrations(db, workers)
    found += _unserved_activities(db, workers, now_ms)
    found += _foreign_sessions(db, workers, now_ms)
    found += _overdue_messages(db, now_ms, overdue_ms)
    found += _overdue_tasks(db, workers, now_ms, overdue_ms)
    found += _expiring_attempts(db)
    found += _lingering_cancels(db, now_ms - overdue_ms)
    found += _unreadable_activities(db)
    found += _interrupted_activities(db, now_ms)
    found += hidden_by_clock(db, now_ms)
    found += long_transactions(db, longer_than_ms=overdue_ms)
    found += dead
    return sorted(found, key=lambda finding: finding.severity != PROBLEM)


# What can't go on, and why

_BLOCKED_CURES = {
    "nondeterminism": "Deploy code that fits the recorded history (see the source line); it is tried again by itself. "
    "Register the changed code as a new version.",
    "missing_code": "Start workers that have this orchestration in this version; it is tried again by itself.",
    "corrupt_history": "Deploy the version that wrote these events, or repair the named event; "
    "or cancel the instance with force.",
    CORRUPT_ROW: "Something other than duroxide_django changed the named row: repair or delete it, or cancel the "
    "instance with force.",
    REFUSED: "Look at the message: the database refuses the rows of this turn. Mend its cause; "
    "it is tried again by itself until it counts as poison.",
    "newer_engine": "A newer release of duroxide_django began this execution. Start workers of that release, or "
    "finish the update; it is tried again by itself, and does not count as an attempt.",
    "open_transaction": "The orchestration left a transaction open at its yield (the message names it). Close it "
    "before the yield or move the work to an activity, and deploy; it is tried again by itself.",
    "payload_unreadable": "Give the workers the payload codec and the keys that wrote it (setting PAYLOAD_CODEC); "
    "it is tried again by itself.",
    "hanging_turn": "The orchestration function does not come to its next yield: mend the loop or the blocking call at "
    "the named place and deploy. It fails as poison when its attempts are used up.",
    DATABASE_FAILED: "A read from another instance's KV failed, see the message; it is tried again by itself, and does "
    "not count as an attempt.",
    "engine_error": "This is a defect of the engine; please report it with the log's traceback.",
    "no_start": "Its start message is gone. Cancel it with force and start it anew.",
    PAUSED: "Resume it when the reason has gone: manage.py duroxide resume ID.",
}


def blocked(db: Database) -> list[Finding]:
    """Return the instances that recorded why they can't go on."""
    found = db.fetch(
        """SELECT instance_id, name, version, blocked FROM duroxide_instance
        WHERE status = 'Running' AND blocked IS NOT NULL ORDER BY id LIMIT %s""",
        [MAX_FINDINGS],
    )
    return [_blocked_finding(*row) for row in found]


def _blocked_finding(instance_id: str, name: str, version: str | None, blocked: str) -> Finding:
    recorded = read_blocked(blocked)
    reason = str(recorded.get("reason", "unknown"))
    count = recorded.get("tries")
    tries = f" (tried {count} {'time' if count == 1 else 'times'})" if count else ""
    return Finding(
        rule=f"blocked_{reason}",
        severity=WARNING if reason == PAUSED else PROBLEM,
        subject=instance_id,
        instance_id=instance_id,
        why=f"{name} {version or ''} can't go on: {recorded.get('message', '')}{tries}".replace("  ", " "),
        cure=_BLOCKED_CURES.get(reason, "Look at the log of the workers."),
    )


def blocked_reason(db: Database, instance_id: str) -> dict[str, Any] | None:
    """Return what an instance recorded about why it can't go on, or None."""
    found = db.fetch("SELECT blocked FROM duroxide_instance WHERE instance_id = %s", [instance_id])
    return read_blocked(found[0][0]) if found and found[0][0] else None


# What no live worker serves


def _workers(db: Database, now_ms: int) -> tuple[list[LiveWorker], list[Finding]]:
    live: list[LiveWorker] = []
    dead: list[Finding] = []
    for key, beat_ms, options, handlers, slots_used, draining in db.fetch(
        "SELECT id, beat_ms, options, handlers, slots_used, draining FROM duroxide_worker ORDER BY id"
    ):
        silent_ms = now_ms - (moment(beat_ms) or 0)
        if silent_ms >= LIVE_WORKER_MS:
            dead.append(
                Finding(
                    rule="dead_worker",
                    severity=WARNING,
                    subject=key,
                    why=f"The worker's last beat was {silent_ms // 1000} s ago: it died without saying so, "
                    "hangs, or has lost the database.",
                    cure="What it held is taken over when its leases end. Look at its log; its row goes by itself.",
                )
            )
            continue
        used = slots_used if isinstance(slots_used, int) else 0
        live.append(live_worker(key, announced(options), announced(handlers), slots_used=used, draining=bool(draining)))
    return live, dead


def _unserved_orchestrations(db: Database, workers: list[LiveWorker]) -> list[Finding]:
    found = db.fetch(
        """
        SELECT name, version, COUNT(*), MIN(instance_id) FROM duroxide_instance
        WHERE status = 'Running' GROUP BY name, version ORDER BY name, version"""
    )
    findings = []
    for name, version, count, example in found:
        if any(worker.serves_orchestration(name, version) for worker in workers):
            continue
        what = f"{name} {version}" if version else name
        findings.append(
            Finding(
                rule="unserved_orchestration",
                severity=PROBLEM,
                subject=what,
                instance_id=example,
                count=count,
                why=f"{count} unfinished instance(s) of {what} (for example {example}); {_nobody(workers)} runs it.",
                cure=_START
                if not workers
                else "Deploy workers that register this orchestration and version, or cancel these instances.",
            )
        )
    return findings[:MAX_FINDINGS]


def live_versions(db: Database) -> dict[tuple[str, str | None], int]:
    """Return how many instances have not ended, by orchestration and version (None: not decided yet)."""
    found = db.fetch(
        """SELECT name, version, COUNT(*) FROM duroxide_instance
        WHERE status = 'Running' GROUP BY name, version"""
    )
    return {(name, version): count for name, version, count in found}


def replayable(db: Database, after: int, *, name: str | None, size: int) -> list[Row]:
    """Return (key, instance id, name, version, execution) of running instances that have a history, oldest first.

    Args:
        after: the key after which to go on.
        name: only this orchestration.
        size: how many at the most.
    """
    named, parameters = ("", []) if name is None else ("AND name = %s", [name])
    return db.fetch(
        f"""
        SELECT id, instance_id, name, version, current_execution_id FROM duroxide_instance
        WHERE status = 'Running' AND last_event_id > 0 AND id > %s {named} ORDER BY id LIMIT %s""",
        [after, *parameters, size],
    )


_START = "Start workers: manage.py runworkers."


def _nobody(workers: list[LiveWorker]) -> str:
    return f"none of the {len(workers)} live worker(s)" if workers else "no worker is live, so nobody"


def _unserved_activities(db: Database, workers: list[LiveWorker], now_ms: int) -> list[Finding]:
    found = db.fetch(
        """
        SELECT t.name, t.tag, COUNT(*), MIN(t.visible_at_ms), MIN(i.instance_id)
        FROM duroxide_activity_task t JOIN duroxide_instance i ON i.id = t.instance_id
        WHERE t.lease_until_ms <= %s GROUP BY t.name, t.tag ORDER BY t.name, t.tag""",
        [now_ms],
    )
    findings = []
    for name, tag, count, since_ms, example in found:
        if any(worker.serves_activity(name, tag) for worker in workers):
            continue
        known = any(name in worker.activities for worker in workers)
        what = f"{name} (tag {tag})" if tag else name
        why = f"with the tag {tag!r} " if tag and known else ""
        findings.append(
            Finding(
                rule="unserved_tag" if known else "unserved_activity",
                severity=PROBLEM,
                subject=what,
                instance_id=example,
                count=count,
                why=f"{count} activity task(s) {name!r} {why}wait, the oldest for {_seconds(now_ms - since_ms)} "
                f"(for example of {example}); {_nobody(workers)} takes them.",
                cure=(_START if not workers else f"Start a worker with --tag {tag}.")
                if known or not workers
                else "Deploy workers that register this activity, or complete the tasks by hand.",
            )
        )
    return findings[:MAX_FINDINGS]


def _foreign_sessions(db: Database, workers: list[LiveWorker], now_ms: int) -> list[Finding]:
    owners = [worker.owner for worker in workers]
    held, parameter = db.any_of("s.owner", owners)
    found = db.fetch(
        f"""
        SELECT s.session_id, s.owner, s.lease_until_ms, COUNT(*), MIN(i.instance_id)
        FROM duroxide_session s JOIN duroxide_activity_task t ON t.session_id = s.session_id
            JOIN duroxide_instance i ON i.id = t.instance_id
        WHERE s.lease_until_ms > %s AND t.lease_until_ms <= %s AND NOT ({held})
        GROUP BY s.session_id, s.owner, s.lease_until_ms ORDER BY s.session_id LIMIT %s""",
        [now_ms, now_ms, parameter, MAX_FINDINGS],
    )
    return [
        Finding(
            rule="unserved_session",
            severity=WARNING,
            subject=session,
            instance_id=example,
            count=count,
            why=f"{count} task(s) of the session {session!r} wait for worker {owner!r}, which is not live.",
            cure="Another worker takes the session when its lease ends, in "
            f"{_seconds((moment(until_ms) or now_ms) - now_ms)}; or start that worker again.",
        )
        for session, owner, until_ms, count, example in found
    ]


# What is late


def _overdue_messages(db: Database, now_ms: int, overdue_ms: int) -> list[Finding]:
    found = db.fetch(
        """
        SELECT m.kind, COUNT(*), MIN(m.visible_at_ms), MIN(i.instance_id)
        FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
        WHERE m.visible_at_ms <= %s AND i.blocked IS NULL GROUP BY m.kind ORDER BY m.kind""",
        [now_ms - overdue_ms],
    )
    return [
        Finding(
            rule="overdue_timer" if kind == "TimerFired" else "overdue_message",
            severity=PROBLEM,
            subject=kind,
            instance_id=example,
            count=count,
            why=f"{count} {kind} message(s) are due, the oldest for {_seconds(now_ms - since_ms)} (for example of "
            f"{example}), and no turn has taken them.",
            cure="Start workers, or more of them: those there are down, without this orchestration, or too slow. "
            "Turns of more than a second hold all others up: the workers' logs name the place.",
        )
        for kind, count, since_ms, example in found
    ]


def _overdue_tasks(db: Database, workers: list[LiveWorker], now_ms: int, overdue_ms: int) -> list[Finding]:
    found = db.fetch(
        """
        SELECT t.name, t.tag, COUNT(*), MIN(t.visible_at_ms), MIN(i.instance_id)
        FROM duroxide_activity_task t JOIN duroxide_instance i ON i.id = t.instance_id
        WHERE t.visible_at_ms <= %s AND t.lease_until_ms <= %s GROUP BY t.name, t.tag ORDER BY t.name, t.tag""",
        [now_ms - overdue_ms, now_ms],
    )
    serving = {
        (name, tag): [worker for worker in workers if worker.serves_activity(name, tag)] for name, tag, *_ in found
    }
    return [
        _overdue_finding(serving[name, tag], name, count, now_ms - since_ms, example)
        for name, tag, count, since_ms, example in found
        if serving[name, tag]
    ][:MAX_FINDINGS]


def _overdue_finding(workers: list[LiveWorker], name: str, count: int, waited_ms: int, example: str) -> Finding:
    slots, used = sum(worker.slots for worker in workers), sum(worker.slots_used for worker in workers)
    return Finding(
        rule="overdue_activity",
        severity=WARNING,
        subject=name,
        instance_id=example,
        count=count,
        why=f"{count} task(s) {name!r} have been ready, the oldest for {_seconds(waited_ms)} (for example of "
        f"{example}). {len(workers)} live worker(s) serve them, with {used} of {slots} slots in use.",
        cure="Start more workers or give them more slots (--concurrency)."
        if used >= slots
        else "Slots are free: the tasks wait for a session that another worker holds, or for a quiet moment after "
        "several deliveries without a result (attempts); or the workers don't fetch, see their logs.",
    )


def _expiring_attempts(db: Database) -> list[Finding]:
    limit = settings.MAX_ATTEMPTS
    threshold = min(EXPIRING_ATTEMPTS, limit)
    instances = db.fetch(
        """SELECT instance_id, name, attempts FROM duroxide_instance
        WHERE status = 'Running' AND attempts >= %s ORDER BY attempts DESC, id LIMIT %s""",
        [threshold, MAX_FINDINGS],
    )
    tasks = db.fetch(
        """
        SELECT i.instance_id, t.name, t.event_id, t.attempts, t.last_error
        FROM duroxide_activity_task t JOIN duroxide_instance i ON i.id = t.instance_id
        WHERE t.attempts >= %s ORDER BY t.attempts DESC, t.id LIMIT %s""",
        [threshold, MAX_FINDINGS],
    )
    cure = "Something ends the process each time (memory, a crash of a C library, a kill): look at the workers' logs "
    return [
        Finding(
            rule="expiring_attempts",
            severity=WARNING,
            subject=instance_id,
            instance_id=instance_id,
            why=f"{name} was claimed {attempts} times without a committed turn; after {limit} it fails as poison.",
            cure=cure + "and pause the instance meanwhile.",
        )
        for instance_id, name, attempts in instances
    ] + [
        Finding(
            rule="expiring_attempts",
            severity=WARNING,
            subject=f"{instance_id} #{event_id}",
            instance_id=instance_id,
            why=f"The activity {name!r} was fetched {attempts} times without a result; after {limit} it fails as "
            f"poison{f' (last error: {shown(error)})' if error else ''}.",
            cure=cure + "or complete it by hand.",
        )
        for instance_id, name, event_id, attempts, error in tasks
    ]


def _lingering_cancels(db: Database, before_ms: int) -> list[Finding]:
    """Return the instances that were cancelled before ``before_ms`` and whose clean-up has only signals to wait for.

    The bound of a clean-up counts turns; one that waits for an event that never comes takes none.
    """
    cancelled = f"""{IDLE} AND (SELECT 1 FROM duroxide_history h WHERE h.instance_id = i.id
        AND h.execution_id = i.current_execution_id AND h.kind = 'OrchestrationCancelRequested'
        AND h.timestamp_ms <= {int(before_ms)} LIMIT 1) IS NOT NULL"""
    rows = [row for window in open_windows(db, cancelled) for row in window]
    return [
        Finding(
            rule="lingering_cancel",
            severity=WARNING,
            subject=instance_id,
            instance_id=instance_id,
            why=f"{name} was cancelled, but goes on waiting for an event or a message: its code swallowed the cancel, "
            "or its clean-up waits.",
            cure="Send what it waits for, or cancel it with force. In its code, put "
            "'except OrchestrationCancelled: raise' before a broad except, and race the wait with a timer.",
        )
        for _, instance_id, name, *_rest in rows[:MAX_FINDINGS]
    ]


def _unreadable_activities(db: Database) -> list[Finding]:
    found = db.fetch(
        """
        SELECT t.name, t.last_error, COUNT(*), MIN(i.instance_id)
        FROM duroxide_activity_task t JOIN duroxide_instance i ON i.id = t.instance_id
        WHERE t.lease_token IS NULL AND (t.last_error LIKE %s OR t.last_error LIKE %s)
        GROUP BY t.name, t.last_error ORDER BY t.name LIMIT %s""",
        [f"{UNREADABLE}: %", f"{CORRUPT}: %", MAX_FINDINGS],
    )
    return [
        Finding(
            rule="unreadable_activity",
            severity=PROBLEM,
            subject=name,
            instance_id=example,
            count=count,
            why=f"{count} task(s) {name!r} (for example of {example}) have an input or a row that the worker which "
            f"fetched them could not read: {error.partition(': ')[2]}",
            cure=_BLOCKED_CURES[CORRUPT_ROW if error.startswith(CORRUPT) else "payload_unreadable"],
        )
        for name, error, count, example in found
    ]


def _interrupted_activities(db: Database, now_ms: int) -> list[Finding]:
    found = db.fetch(
        """
        SELECT t.name, COUNT(*), MAX(t.interruptions), MAX(t.visible_at_ms), MIN(i.instance_id), MAX(t.last_error)
        FROM duroxide_activity_task t JOIN duroxide_instance i ON i.id = t.instance_id
        WHERE t.interruptions > 0 GROUP BY t.name ORDER BY t.name LIMIT %s""",
        [MAX_FINDINGS],
    )
    return [
        Finding(
            rule="retrying_for_database",
            severity=WARNING,
            subject=name,
            instance_id=example,
            count=count,
            why=f"{count} task(s) {name!r} (for example of {example}) are being retried for the database, up to {most} "
            f"time(s) in a row, the last in {_seconds(last_ms - now_ms)}; an error that it raised: {shown(error)}",
            cure="Restore what the error names: connections, disk, locks, the primary. They are run again after 1, 2, "
            "4 … 60 s, which doesn't count as attempts.",
        )
        for name, count, most, last_ms, example, error in found
    ]


def _seconds(milliseconds: int) -> str:
    return f"{max(0, milliseconds) // 1000} s"
