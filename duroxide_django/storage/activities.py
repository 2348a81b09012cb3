"""The worker queue: inserting, fetching, renewing and finishing activities."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from django.db import DatabaseError

from duroxide_django.engine import messages
from duroxide_django.engine.failures import Failure, timeout
from duroxide_django.engine.outcome import NewActivity
from duroxide_django.engine.time_limits import NO_LIMITS, TimeLimits
from duroxide_django.exceptions import ConfigurationError, CorruptRow, DuroxideError
from duroxide_django.logs import describe, runtime_log
from duroxide_django.storage import large
from duroxide_django.storage.chunks import chunks
from duroxide_django.storage.database import Database, Statement, new_token
from duroxide_django.storage.faults import is_transient
from duroxide_django.storage.inbox import Outgoing, send
from duroxide_django.storage.payloads import seal, unseal
from duroxide_django.storage.shapes import OPTIONAL_TEXT, fits, mended, moment, plain

#: Begins the last error of an activity whose input no worker could read, or whose row, and how long it then waits,
#: milliseconds.
UNREADABLE, CORRUPT = "PayloadUnreadable", "CorruptRow"
UNREADABLE_DELAY_MS = 5_000
#: An activity that a database's failure ended waits at most this long for its next delivery, milliseconds.
MAX_PAUSE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A leased activity.

    Attributes:
        id, token: its row and the lease on it.
        instance: key of the instance's row.
        attempts: how often it was fetched, this time included, but for deliveries that a database's failure ended.
        interruptions: how many deliveries in a row a database's failure ended.
        losses: how many deliveries ended without a word of their worker.
        attempt, max_attempts, retry_of: place in a retry loop.
        limits: time limits that the worker which runs it keeps.
        counted: whether this delivery is among the ``attempts`` of its row; see ``recount``.
    """

    id: int
    token: int
    instance: int
    instance_id: str
    execution_id: int
    event_id: int
    name: str
    input: str
    tag: str | None
    session_id: str | None
    orchestration_name: str
    orchestration_version: str
    attempts: int = 1
    interruptions: int = 0
    losses: int = 0
    attempt: int = 1
    max_attempts: int | None = None
    retry_of: int | None = None
    limits: TimeLimits = NO_LIMITS
    counted: bool = True

    @property
    def lease(self) -> tuple[int, int]:
        """The row and the lease on it: tells this delivery from a later one."""
        return self.id, self.token

    @property
    def deliveries(self) -> int:
        """How often it was handed to a worker, this time included."""
        return self.attempts + self.interruptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A task with its completion, not yet committed.

    Attributes:
        kind: ActivityCompleted or ActivityFailed.
        payload: JSON text of the result, or of the failure details.
    """

    task: Task
    kind: str
    payload: str

    def message(self) -> messages.Message:
        """Return the completion as a message that never was in the queue."""
        return messages.Message(
            kind=self.kind,
            execution_id=self.task.execution_id,
            event_id=self.task.event_id,
            payload=self.payload,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """An activity to enqueue; ``token`` leases it to the inserting process at once."""

    instance: int
    execution_id: int
    activity: NewActivity
    token: int | None = None


_INSERT_COLUMNS = (
    ("instance", "bigint"), ("execution_id", "int"), ("event_id", "int"), ("name", "text"), ("input", "payload"),
    ("tag", "text"), ("session_id", "text"), ("retry", "text"), ("start_within", "bigint"), ("token", "bigint"),
)  # fmt: skip


def insertions(db: Database, rows: Sequence[Insert], *, lease_ms: int, worker: str) -> list[Statement]:
    """Return the statements that enqueue activities; they return (key, instance, schedule event) of the rows."""
    values = [
        (
            row.instance,
            row.execution_id,
            row.activity.event_id,
            row.activity.name,
            row.activity.input,
            row.activity.tag or "",
            row.activity.session_id,
            _retry_json(row.activity),
            row.activity.limits.schedule_to_start_timeout_ms,
            row.token,
        )
        for row in rows
    ]
    return [_insertion(db, chunk, lease_ms, worker) for chunk in chunks(_INSERT_COLUMNS, values)]


def _insertion(db: Database, values: Sequence[Sequence[Any]], lease_ms: int, worker: str) -> Statement:
    source, parameters = db.rows(_INSERT_COLUMNS, values)
    return (
        f"""
        INSERT INTO duroxide_activity_task (instance_id, execution_id, event_id, name, input, tag, session_id, retry,
            visible_at_ms, start_by_ms, lease_token, lease_until_ms, attempts, worker)
        SELECT r.instance, r.execution_id, r.event_id, r.name, r.input, r.tag, r.session_id, r.retry,
            {db.now}, {db.now} + r.start_within, r.token,
            CASE WHEN r.token IS NULL THEN 0 ELSE {db.now} + %s END,
            CASE WHEN r.token IS NULL THEN 0 ELSE 1 END, CASE WHEN r.token IS NULL THEN NULL ELSE %s END
        FROM {source} WHERE true RETURNING id, instance_id, event_id""",
        [lease_ms, worker, *parameters],
    )


def _retry_json(activity: NewActivity) -> str | None:
    limits = activity.limits
    if activity.max_attempts is None and not limits.runs_out:
        return None
    return json.dumps(
        [
            activity.attempt,
            activity.max_attempts,
            activity.retry_of,
            limits.timeout_ms,
            limits.heartbeat_timeout_ms,
        ]
    )


def _retry_fields(key: int, text: str | None) -> dict[str, Any]:
    """Return the attributes of a Task that are stored in ``retry`` of the row ``key``; raises CorruptRow."""
    if not text:
        return {}
    attempt, max_attempts, retry_of, *limits = _retry_values(key, text)
    place = {"attempt": attempt, "max_attempts": max_attempts, "retry_of": retry_of}
    # An engine whose timers limited the attempts stored one value more, not two.
    if len(limits) < 2 or limits[:2] == [None, None]:
        return place
    return {**place, "limits": TimeLimits(timeout_ms=limits[0], heartbeat_timeout_ms=limits[1])}


def _retry_values(key: int, text: str) -> list[Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if (
        isinstance(values, list)
        and len(values) >= 3
        and isinstance(values[0], int)
        and all(value is None or isinstance(value, int) for value in values)
    ):
        return values
    raise CorruptRow(
        f"The row {key} of duroxide_activity_task can't be read: its column retry does not hold a list of attempt, "
        "most attempts, first event and time limits. Something other than duroxide_django changed it; repair the row."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a worker can take.

    Attributes:
        limit: how many activities at the most.
        max_bytes: how many bytes of input they may have together; the first may have more.
        names: activities it has functions for.
        untagged, tags: its tag filter; tags None: every tag.
        owner: its identity for sessions.
        session_lease_ms: milliseconds a session is leased for.
        sessions_in_flight: sessions it runs activities of now.
        new_sessions: how many further sessions it may take on.
        busy_sessions: sessions it may take no activity of now (serial mode).
    """

    limit: int
    names: Sequence[str]
    untagged: bool
    tags: Sequence[str] | None
    owner: str
    session_lease_ms: int
    sessions_in_flight: Sequence[str]
    new_sessions: int
    busy_sessions: Sequence[str] = ()
    serial_sessions: bool = False
    max_bytes: int = 32 * 1024 * 1024


def fetch(
    db: Database, wanted: Wanted, *, lease_ms: int, worker: str, relaxed: bool = False, only: int | None = None
) -> list[Task]:
    """Lease up to ``wanted.limit`` activities, oldest first.

    Args:
        lease_ms: milliseconds until the lease runs out unless renewed.
        worker: name to show as the holder.
        relaxed: let this transaction's commit return before it is on disk: a lease that a crash of the server
            forgets is merely taken again.
        only: no other activity than the one with this key.
    """
    conditions, parameters = _fetch_conditions(db, wanted)
    if only is not None:
        conditions.append(f"t.id = {int(only)}")
    token = new_token()
    found = db.fetch(
        f"""
        WITH candidate AS MATERIALIZED (
            SELECT t.instance_id AS of_instance, t.id AS of_task FROM duroxide_activity_task t
            WHERE t.visible_at_ms <= {db.now} AND t.lease_until_ms <= {db.now} AND {" AND ".join(conditions)}
            ORDER BY t.visible_at_ms, t.id LIMIT %s
            {"FOR UPDATE OF t " + db.features.skip_locked if db.features.skip_locked else ""})
        UPDATE duroxide_activity_task SET lease_token = %s, lease_until_ms = {db.now} + %s, attempts = attempts + 1,
            worker = %s, losses = losses + CASE WHEN lease_token IS NULL THEN 0 ELSE 1 END
        FROM candidate WHERE instance_id = of_instance AND id = of_task
        RETURNING id, instance_id, execution_id, event_id, name, {large.inline(db, "input")}, tag, session_id, retry,
            attempts, interruptions, {db.features.byte_length("input")}, losses,
            {db.features.relaxed_commit if relaxed else "NULL"}""",
        [*parameters, wanted.limit, token, lease_ms, worker],
    )
    found = _with_inputs(db, sorted(found, key=itemgetter(0)), wanted.max_bytes)
    found = _own_sessions(db, _whole_rows(db, found), wanted)
    return _with_instances(db, found, token)


def _with_inputs(db: Database, found: list[Any], max_bytes: int) -> list[Any]:
    """Return fetched rows with their inputs; what exceeds the bytes is given back."""
    if all(row[11] <= large.INLINE_BYTES for row in found):
        return found
    places, left = large.take([(row[0], row[11]) for row in found], each=max_bytes, together=max_bytes)
    taken = [list(found[place]) for place in places]
    if left:
        kept = set(places)
        give_back(db, [(row[1], row[0]) for place, row in enumerate(found) if place not in kept])
    outsize = [row for row in taken if row[11] > large.INLINE_BYTES]
    texts = large.read_texts(db, "duroxide_activity_task", "input", [(row[1], row[0]) for row in outsize])
    for row in outsize:
        row[5] = texts.get(row[0])
    return taken


def fetch_row_by_row(db: Database, wanted: Wanted, *, lease_ms: int, worker: str, relaxed: bool = False) -> list[Task]:
    """Lease activities as ``fetch`` does, each in a savepoint; those that can't be leased are set aside."""
    conditions, parameters = _fetch_conditions(db, wanted)
    candidates = db.fetch(
        f"""
        SELECT t.instance_id, t.id FROM duroxide_activity_task t
        WHERE t.visible_at_ms <= {db.now} AND t.lease_until_ms <= {db.now} AND {" AND ".join(conditions)}
        ORDER BY t.visible_at_ms, t.id LIMIT %s""",
        [*parameters, wanted.limit],
    )
    tasks: list[Task] = []
    for instance, key in candidates:
        try:
            with db.atomic():
                tasks += fetch(db, replace(wanted, limit=1), lease_ms=lease_ms, worker=worker, only=key)
        except Exception as exc:
            if isinstance(exc, ConfigurationError) or is_transient(exc):
                raise
            _put_off(db, instance, key, exc)
    return tasks


def _put_off(db: Database, instance: int, key: int, error: Exception) -> None:
    """Hide an activity that can't be leased, and say why on it."""
    runtime_log.error(f"An activity can't be fetched and is set aside: {describe(error)}", task=key)
    condition, parameters = db.keyed("duroxide_activity_task", [(instance, key)])
    try:
        with db.atomic():
            db.execute(
                f"""UPDATE duroxide_activity_task SET visible_at_ms = {db.now} + %s, last_error = %s
                WHERE {condition}""",
                [MAX_PAUSE_MS, f"{CORRUPT}: {plain(str(error))}", *parameters],
            )
    except DatabaseError as exc:
        if is_transient(exc):
            raise
        runtime_log.error(f"It could not be set aside: {describe(exc)}", task=key)


def _fetch_conditions(db: Database, wanted: Wanted) -> tuple[list[str], list[Any]]:
    name_condition, names = db.any_of("t.name", wanted.names)
    conditions, parameters = [name_condition], [names]
    if wanted.tags is not None:
        tags = [*([""] if wanted.untagged else []), *wanted.tags]
        if len(tags) == 1:
            # The index gives the entries of one tag in order, so that no more are read than are taken.
            conditions.append("t.tag = %s")
            parameters.append(tags[0])
        else:
            tag_condition, tags_parameter = db.any_of("t.tag", tags)
            conditions.append(tag_condition)
            parameters.append(tags_parameter)
    elif not wanted.untagged:
        conditions.append("t.tag <> ''")
    live = f"s.session_id = t.session_id AND s.lease_until_ms > {db.now}"
    in_flight, sessions = db.any_of("t.session_id", wanted.sessions_in_flight)
    mine = f"EXISTS (SELECT 1 FROM duroxide_session s WHERE {live} AND s.owner = %s)"
    free = f"NOT EXISTS (SELECT 1 FROM duroxide_session s WHERE {live} AND s.owner <> %s)"
    # At the cap, sessions that are in flight here already are still served (W18).
    reachable = free if wanted.new_sessions > 0 else f"({mine} AND {in_flight})"
    session_parameters: list[Any] = [wanted.owner] if wanted.new_sessions > 0 else [wanted.owner, sessions]
    if wanted.busy_sessions:
        busy, busy_parameter = db.any_of("t.session_id", wanted.busy_sessions)
        reachable = f"({reachable} AND NOT ({busy}))"
        session_parameters.append(busy_parameter)
    if wanted.serial_sessions:
        # One at a time over all workers: nothing of this session is leased, and this is its oldest entry.
        reachable += (
            """ AND NOT EXISTS (SELECT 1 FROM duroxide_activity_task o
            WHERE o.session_id = t.session_id AND (o.id < t.id OR o.lease_until_ms > """
            f"{db.now}))"
        )
    conditions.append(f"(t.session_id IS NULL OR ({reachable}))")
    return conditions, parameters + session_parameters


_TASK_SHAPE = (int, int, int, int, str, str, str, OPTIONAL_TEXT, OPTIONAL_TEXT, int, int)
_INSTANCE_SHAPE = (str, str, OPTIONAL_TEXT)


def _whole_rows(db: Database, found: list[Any]) -> list[Any]:
    """Return the rows that can be read; the others are given back, with their error."""
    whole = []
    for row in found:
        if fits(row, _TASK_SHAPE):
            whole.append(row)
        else:
            _set_aside(db, row, mended(row, _TASK_SHAPE, f"The row {row[0]} of duroxide_activity_task")[1])
    return whole


def _set_aside(db: Database, row: Sequence[Any], error: CorruptRow) -> None:
    runtime_log.error(f"An activity can't be run: {error}", task=row[0])
    give_back(db, [(row[1], row[0])], delay_ms=MAX_PAUSE_MS, error=f"{CORRUPT}: {error}")


def _own_sessions(db: Database, found: list[Any], wanted: Wanted) -> list[Any]:
    """Take the sessions of fetched rows; give back the rows of sessions that another worker won meanwhile."""
    sessions = list(dict.fromkeys(row[7] for row in found if row[7] is not None))
    if not sessions:
        return found
    known = [name for name in sessions if name in wanted.sessions_in_flight]
    fresh = [name for name in sessions if name not in wanted.sessions_in_flight][: wanted.new_sessions]
    source, parameters = db.rows((("session_id", "text"),), [(name,) for name in sorted([*known, *fresh])])
    owned = (
        db.fetch(
            f"""
        INSERT INTO duroxide_session (session_id, owner, lease_until_ms, last_activity_ms)
        SELECT r.session_id, %s, {db.now} + %s, {db.now} FROM {source} WHERE true
        ON CONFLICT (session_id) DO UPDATE SET owner = excluded.owner, lease_until_ms = excluded.lease_until_ms,
            last_activity_ms = excluded.last_activity_ms
        WHERE duroxide_session.owner = excluded.owner OR duroxide_session.lease_until_ms <= {db.now}
        RETURNING session_id""",
            [wanted.owner, wanted.session_lease_ms, *parameters],
        )
        if known or fresh
        else []
    )
    allowed = {name for (name,) in owned}
    lost = [(row[1], row[0]) for row in found if row[7] is not None and row[7] not in allowed]
    if lost:
        give_back(db, lost)
    return [row for row in found if row[7] is None or row[7] in allowed]


def _with_instances(db: Database, found: list[Any], token: int) -> list[Task]:
    if not found:
        return []
    condition, keys = db.any_of("id", sorted({row[1] for row in found}))
    instances = {
        key: rest
        for key, *rest in db.fetch(
            f"SELECT id, instance_id, name, version FROM duroxide_instance WHERE {condition}", [keys]
        )
    }
    tasks = []
    unreadable: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in found:
        key, instance, execution_id, event_id, name, text, tag, session_id, retry, attempts, interruptions, *_ = row
        if instance not in instances:
            continue
        try:
            instance_id, orchestration_name, version = _whole_instance(instance, instances[instance])
            kept = _retry_fields(key, retry)
        except CorruptRow as exc:
            _set_aside(db, (key, instance), exc)
            continue
        try:
            text = unseal(text)
        except DuroxideError as exc:
            unreadable[f"{UNREADABLE}: {exc}"].append((instance, key))
            continue
        tasks.append(
            Task(
                id=key,
                token=token,
                instance=instance,
                instance_id=instance_id,
                execution_id=execution_id,
                event_id=event_id,
                name=name,
                input=text,
                tag=tag or None,
                session_id=session_id,
                orchestration_name=orchestration_name,
                orchestration_version=version,
                attempts=attempts,
                interruptions=interruptions,
                losses=row[12] if isinstance(row[12], int) else 0,
                **kept,
            )
        )
    for why, keys_of in unreadable.items():
        give_back(db, keys_of, delay_ms=UNREADABLE_DELAY_MS, error=why)
    return tasks


def _whole_instance(key: int, row: Sequence[Any]) -> Sequence[Any]:
    if fits(row, _INSTANCE_SHAPE):
        return row
    raise mended(row, _INSTANCE_SHAPE, f"The row {key} of duroxide_instance")[1]


_LEASE_COLUMNS = (("instance", "bigint"), ("id", "bigint"), ("token", "bigint"))


def _leased(db: Database, tasks: Sequence[Task]) -> tuple[str, list[Any]]:
    """Return (condition that a row is one of these, still leased to this process, its parameters)."""
    table = "duroxide_activity_task"
    values = [(task.instance, task.id, task.token) for task in tasks]
    source, parameters = db.rows(_LEASE_COLUMNS, values)
    if not db.features.joins_pairs:
        ids, keys = db.keyed(table, [(task.instance, task.id) for task in tasks])
        return f"{ids} AND ({table}.id, {table}.lease_token) IN (SELECT r.id, r.token FROM {source})", [
            *keys,
            *parameters,
        ]
    return (
        f"({table}.instance_id, {table}.id, {table}.lease_token) IN (SELECT r.instance, r.id, r.token FROM {source})",
        parameters,
    )


def _free(db: Database, tasks: Sequence[Task]) -> tuple[str, list[Any]]:
    """Return the condition of ``_leased``, and that nobody has locked the row; its parameters."""
    condition, parameters = _leased(db, tasks)
    if not db.features.skip_locked:
        return condition, parameters
    return (
        f"""(duroxide_activity_task.instance_id, duroxide_activity_task.id) IN (
            SELECT instance_id, id FROM duroxide_activity_task WHERE {condition}
            FOR UPDATE {db.features.skip_locked})""",
        parameters,
    )


def removal(db: Database, tasks: Sequence[Task]) -> Statement:
    """Return the statement that deletes finished tasks' rows; it gives (key, token) of those whose lease still held."""
    condition, parameters = _leased(db, tasks)
    return f"DELETE FROM duroxide_activity_task WHERE {condition} RETURNING id, lease_token", parameters


def remove(db: Database, tasks: Sequence[Task]) -> set[tuple[int, int]]:
    """Delete the rows of finished tasks; returns (key, token) of those whose lease still held."""
    return {(key, token) for key, token in db.fetch(*removal(db, tasks))} if tasks else set()


def complete(db: Database, finished: Sequence[Finished]) -> list[Finished]:
    """Delete finished tasks and enqueue their completions; returns those whose lease still held."""
    held = remove(db, [item.task for item in finished])
    accepted = [item for item in finished if item.task.lease in held]
    enqueue_completions(db, accepted)
    return accepted


def enqueue_completions(db: Database, finished: Sequence[Finished]) -> None:
    """Enqueue the completions of tasks whose rows are deleted in the same transaction."""
    send(
        db,
        [
            Outgoing(
                instance=item.task.instance,
                kind=item.kind,
                execution_id=item.task.execution_id,
                event_id=item.task.event_id,
                payload=item.payload,
            )
            for item in finished
        ],
        check_instance=True,
    )


def renew(db: Database, tasks: Sequence[Task], *, lease_ms: int) -> set[int]:
    """Extend leases by ``lease_ms`` milliseconds from now; returns the keys of tasks that are still wanted.

    A row that a transaction has locked keeps its lease as it is: nobody else can take it meanwhile, and to wait for it
    would let all the others run out.
    """
    if not tasks:
        return set()
    condition, parameters = _free(db, tasks)
    found = db.fetch(
        f"UPDATE duroxide_activity_task SET lease_until_ms = {db.now} + %s WHERE {condition} RETURNING id",
        [lease_ms, *parameters],
    )
    renewed = {key for (key,) in found}
    rest = [task for task in tasks if task.id not in renewed]
    return renewed | still_wanted(db, rest)


def record_progress(db: Database, progress: Sequence[tuple[Task, str]]) -> None:
    """Note what running activities said of their progress (JSON text); a row that is locked does without."""
    free, free_parameters = _free(db, [task for task, _ in progress])
    columns = (*_LEASE_COLUMNS, ("progress", "payload"))
    values = [(task.instance, task.id, task.token, text) for task, text in progress]
    source, parameters = db.rows(columns, values)
    db.execute(
        f"""
        UPDATE duroxide_activity_task SET progress = r.progress FROM {source}
        WHERE duroxide_activity_task.instance_id = r.instance AND duroxide_activity_task.id = r.id
            AND duroxide_activity_task.lease_token = r.token AND {free}""",
        [*parameters, *free_parameters],
    )


def record_deadlines(db: Database, deadlines: Sequence[tuple[Task, int]]) -> None:
    """Note when running activities will time out: (task, milliseconds from now); a row that is locked does without."""
    free, free_parameters = _free(db, [task for task, _ in deadlines])
    columns = (*_LEASE_COLUMNS, ("left_ms", "bigint"))
    values = [(task.instance, task.id, task.token, left_ms) for task, left_ms in deadlines]
    source, parameters = db.rows(columns, values)
    db.execute(
        f"""
        UPDATE duroxide_activity_task SET deadline_ms = {db.now} + r.left_ms FROM {source}
        WHERE duroxide_activity_task.instance_id = r.instance AND duroxide_activity_task.id = r.id
            AND duroxide_activity_task.lease_token = r.token AND {free}""",
        [*parameters, *free_parameters],
    )


def still_wanted(db: Database, tasks: Sequence[Task]) -> set[int]:
    """Return the keys of tasks whose rows and leases are still there."""
    if not tasks:
        return set()
    condition, parameters = _leased(db, tasks)
    return {key for (key,) in db.fetch(f"SELECT id FROM duroxide_activity_task WHERE {condition}", parameters)}


def release(
    db: Database, tasks: Sequence[Task], *, delay_ms: int = 0, error: str | None = None, begun: bool = False
) -> list[Task]:
    """Give leased tasks back; the fetch doesn't count unless ``error`` is given.

    Returns:
        those whose rows a transaction has locked: they are still leased.

    Args:
        delay_ms: milliseconds until they can be fetched again; 0: at once, and those that never began keep their
            place in the queue.
        begun: they ran, so their schedule-to-start time has been kept.
    """
    if not tasks:
        return []
    moved = bool(delay_ms or begun)
    released: set[int] = set()
    for counted in (True, False):
        alike = [task for task in tasks if task.counted is counted]
        if not alike:
            continue
        condition, parameters = _free(db, alike)
        found = db.fetch(
            f"""
        UPDATE duroxide_activity_task SET lease_token = NULL, lease_until_ms = 0, worker = NULL, deadline_ms = NULL,
            attempts = attempts - %s, visible_at_ms = {f"{db.now} + %s" if moved else "visible_at_ms"},
            last_error = COALESCE(%s, last_error), start_by_ms = {"NULL" if begun else "start_by_ms"}
        WHERE {condition} RETURNING id""",
            [int(counted and not error), *([delay_ms] if moved else []), seal(error), *parameters],
        )
        released.update(key for (key,) in found)
    held = still_wanted(db, [task for task in tasks if task.id not in released])
    return [task for task in tasks if task.id in held]


def recount(db: Database, tasks: Sequence[Task], by: int) -> set[tuple[int, int]]:
    """Add ``by`` to the attempts of leased tasks; returns (key, token) of those that are leased and not locked.

    A delivery that may die of another activity's doing must not count towards poison.
    """
    condition, parameters = _free(db, tasks)
    found = db.fetch(
        f"UPDATE duroxide_activity_task SET attempts = attempts + %s WHERE {condition} RETURNING id, lease_token",
        [by, *parameters],
    )
    return {(key, token) for key, token in found}


_INTERRUPTED_COLUMNS = (*_LEASE_COLUMNS, ("delay", "bigint"), ("error", "payload"), ("counted", "int"))


def interrupt(db: Database, interrupted: Sequence[tuple[Task, str]]) -> None:
    """Give tasks back whose delivery a database's failure ended, given with its text.

    The delivery doesn't count as an attempt. It has a count of its own, by which the pause before the next one grows:
    1, 2, 4 … 60 seconds.
    """
    if not interrupted:
        return
    values = [
        (task.instance, task.id, task.token, _pause_ms(task.interruptions), error, int(task.counted))
        for task, error in interrupted
    ]
    source, parameters = db.rows(_INTERRUPTED_COLUMNS, values)
    db.execute(
        f"""
        UPDATE duroxide_activity_task SET lease_token = NULL, lease_until_ms = 0, worker = NULL, start_by_ms = NULL,
            deadline_ms = NULL,
            attempts = attempts - r.counted, interruptions = interruptions + 1, visible_at_ms = {db.now} + r.delay,
            last_error = r.error
        FROM {source} WHERE duroxide_activity_task.instance_id = r.instance AND duroxide_activity_task.id = r.id
            AND duroxide_activity_task.lease_token = r.token""",
        parameters,
    )


def _pause_ms(interruptions: int) -> int:
    return min(1_000 << min(interruptions, 6), MAX_PAUSE_MS)


def give_back(db: Database, keys: Sequence[tuple[int, int]], *, delay_ms: int = 0, error: str | None = None) -> None:
    """Undo the fetch of rows that this transaction just leased.

    Args:
        keys: (instance key, id) of each.
        delay_ms: milliseconds until they can be fetched again; 0: at once, in the place that they had.
        error: why, without payloads: it is stored so that it can be read without a key.
    """
    condition, parameters = db.keyed("duroxide_activity_task", keys)
    visible_at = f"{db.now} + %s" if delay_ms else "visible_at_ms"
    db.execute(
        f"""
        UPDATE duroxide_activity_task SET lease_token = NULL, lease_until_ms = 0, worker = NULL,
            attempts = attempts - 1, visible_at_ms = {visible_at}, last_error = COALESCE(%s, last_error)
        WHERE {condition}""",
        [*([delay_ms] if delay_ms else []), error, *parameters],
    )


def expire_unstarted(db: Database) -> int:
    """Fail activities that no worker began within their schedule-to-start time; returns how many (W19).

    One that a transaction has locked is left for a later call.
    """
    condition = f"start_by_ms <= {db.now} AND lease_until_ms <= {db.now} AND attempts = 0"
    if db.features.has_row_locks:
        condition = f"""(instance_id, id) IN (SELECT instance_id, id FROM duroxide_activity_task WHERE {condition}
            FOR UPDATE {db.features.skip_locked})"""
    found = db.fetch(
        f"DELETE FROM duroxide_activity_task WHERE {condition} RETURNING instance_id, execution_id, event_id, name, tag"
    )
    send(
        db,
        [
            Outgoing(
                instance=instance,
                kind=messages.ACTIVITY_FAILED,
                execution_id=execution_id,
                event_id=event_id,
                payload=_not_started(name, tag).to_json(),
            )
            for instance, execution_id, event_id, name, tag in found
            if fits((instance, execution_id, event_id), (int, int, int))
        ],
        check_instance=True,
    )
    return len(found)


def _not_started(name: str, tag: str) -> Failure:
    where = f" with tag {tag!r}" if tag else ""
    return timeout(f"timeout: no worker started activity {name!r}{where} in time")


def next_visible_ms(db: Database) -> int | None:
    """Return when the next activity can be fetched that is hidden or leased, or will expire, epoch milliseconds.

    None: there is no such moment.
    """
    found = db.fetch(
        f"""
        SELECT MIN(moment) FROM (
            SELECT MIN(visible_at_ms) AS moment FROM duroxide_activity_task WHERE visible_at_ms > {db.now}
            UNION ALL
            SELECT MIN(lease_until_ms) FROM duroxide_activity_task WHERE lease_until_ms > {db.now}
            UNION ALL
            SELECT MIN(start_by_ms) FROM duroxide_activity_task
            WHERE start_by_ms > {db.now} AND attempts = 0) AS moments"""
    )
    return moment(found[0][0])


def next_deadline_ms(db: Database) -> int | None:
    """Return the earliest schedule-to-start time that may still run out, in epoch milliseconds, or None."""
    found = db.fetch(
        """
        SELECT start_by_ms FROM duroxide_activity_task WHERE start_by_ms IS NOT NULL AND attempts = 0
        ORDER BY start_by_ms LIMIT 1"""
    )
    return moment(found[0][0]) if found else None


def can_fetch(db: Database, wanted: Wanted) -> bool:
    """Return whether ``fetch`` would find something; takes no lease."""
    conditions, parameters = _fetch_conditions(db, wanted)
    return bool(
        db.fetch(
            f"""
            SELECT 1 FROM duroxide_activity_task t
            WHERE t.visible_at_ms <= {db.now} AND t.lease_until_ms <= {db.now} AND {" AND ".join(conditions)}
            LIMIT 1""",
            parameters,
        )
    )
