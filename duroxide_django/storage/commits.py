"""Committing turns: one transaction for the turns of many instances, each guarded by its own lease or history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from django.db import DataError

from duroxide_django.engine import messages
from duroxide_django.engine.events import ENGINE_VERSION
from duroxide_django.engine.outcome import Completed, ContinuedAsNew, Failed, TurnResult
from duroxide_django.storage import activities, outbox
from duroxide_django.storage.activities import Finished
from duroxide_django.storage.chunks import chunks, is_small
from duroxide_django.storage.database import Database, Row, Statement, new_token
from duroxide_django.storage.turns import Claimed, delete_messages


@dataclass(slots=True, kw_only=True)
class Commit:
    """One computed turn.

    Attributes:
        claimed: the instance's row as the turn saw it.
        execution_id: the execution it ran (one more than the row's after continue-as-new).
        version: the exact version it ran.
        result: what it wants committed.
        message_ids: the messages it took.
        finished: activities of this process whose completions it took without a message.
        input: given when the turn began a new execution.
        eager: schedule events of new activities that this process takes at once, with their lease tokens.
        mark: marks the row that the turn leaves behind, at random.
        size: how many characters it writes, roughly.
    """

    claimed: Claimed
    execution_id: int
    version: str
    result: TurnResult
    message_ids: list[int] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    input: str | None = None
    eager: dict[int, int] = field(default_factory=dict)
    mark: int = field(default_factory=new_token)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.result.size + len(self.input or "") + len(self.result.custom_status or "")

    @property
    def last_event_id(self) -> int:
        """The execution's last event after this turn."""
        if self.result.events:
            return self.result.events[-1].event_id
        return 0 if self.execution_id != self.claimed.execution_id else self.claimed.last_event_id

    @property
    def next_version(self) -> str:
        """The version that the instance's next turn needs: it tells workers that don't have it to leave it alone."""
        outcome = self.result.outcome
        chosen = outcome.version if isinstance(outcome, ContinuedAsNew) else None
        return chosen or self.version

    @property
    def instance_status(self) -> str:
        """The instance's status after this turn."""
        outcome = self.result.outcome
        if isinstance(outcome, Completed):
            return "Completed"
        return "Failed" if isinstance(outcome, Failed) else "Running"


@dataclass(slots=True, kw_only=True)
class Committed:
    """What a batch of commits did.

    Attributes:
        done: keys of the instances whose turns are committed.
        tasks: keys of new activity rows by (instance key, schedule event).
        wakes: whether messages were enqueued that can be taken at once.
        timers_ms: fire times of new timers, epoch milliseconds.
        offered: whether activities were enqueued that this process did not take itself.
        accepted: completions of this process whose leases still held.
    """

    done: set[int] = field(default_factory=set)
    tasks: dict[tuple[int, int], int] = field(default_factory=dict)
    wakes: bool = False
    timers_ms: list[int] = field(default_factory=list)
    offered: bool = False
    accepted: list[Finished] = field(default_factory=list)


class Overtaken(Exception):
    """A turn's guard failed; roll back and commit again, not in one go."""


def commit(db: Database, turns: Sequence[Commit], *, lease_ms: int, worker: str) -> Committed:
    """Write turns; call it inside a transaction.

    A turn whose guard fails (another worker has gone on with the instance, or it was deleted) is left out; the
    completions that such a turn took without a message are enqueued as messages.

    Args:
        lease_ms: lease of the activities that this process takes at once, milliseconds.
        worker: name to show as their holder.
    """
    held = activities.remove(db, [item.task for turn in turns for item in turn.finished])
    valid = [turn for turn in turns if all(item.task.lease in held for item in turn.finished)]
    passed = {key for statement in _guards(db, valid) for (key,) in db.fetch(*statement)}
    done = [turn for turn in valid if turn.claimed.key in passed]
    lost = [turn for turn in turns if turn.claimed.key not in passed]
    activities.enqueue_completions(db, [item for turn in lost for item in turn.finished if item.task.lease in held])
    accepted = [item for turn in turns for item in turn.finished if item.task.lease in held]
    committed = Committed(done=passed, wakes=bool(lost), accepted=accepted)
    if done:
        writing, tasks = _writing(db, done, committed, lease_ms=lease_ms, worker=worker)
        send = db.together if are_small(done) and db.features.has_writable_cte else db.one_by_one
        _note_tasks(committed, send([*writing, *tasks]))
        _write_rest(db, done, committed)
    return committed


def commit_in_one_go(db: Database, turns: Sequence[Commit], *, lease_ms: int, worker: str) -> Committed:
    """Write turns as ``commit`` does, by one statement that takes the guards for granted.

    Outside of a transaction it is one of its own, and the turns must be ``self_contained``. They must be small.

    Raises:
        Overtaken: one failed after all.
    """
    finished = [item for turn in turns for item in turn.finished]
    committed = Committed(done={turn.claimed.key for turn in turns}, accepted=finished)
    checks = [(_guard(db, group, how), len(group)) for group, how in _by_guard(turns)]
    if finished:
        checks.append((activities.removal(db, [item.task for item in finished]), len(finished)))
    writing, tasks = _writing(db, turns, committed, lease_ms=lease_ms, worker=worker)
    try:
        rows = db.fetch(*_guarded(checks, writing, tasks[0] if tasks else None))
    except DataError as exc:
        if getattr(exc.__cause__, "sqlstate", None) == _DIVISION_BY_ZERO:
            raise Overtaken from exc
        raise
    if tasks:
        _note_tasks(committed, [row[1:] for row in rows])
    if not all(map(self_contained, turns)):
        _write_rest(db, turns, committed)
    return committed


def self_contained(turn: Commit) -> bool:
    """Return whether all that a turn writes is known before the first statement is sent."""
    result = turn.result
    return not (result.children or result.detached or _begins_later_execution(turn))


def are_small(turns: Sequence[Commit]) -> bool:
    """Return whether one statement can write these turns."""
    return is_small(sum(len(turn.result.events) for turn in turns), sum(turn.size for turn in turns))


_DIVISION_BY_ZERO = "22012"


def _guarded(
    checks: Sequence[tuple[Statement, int]], writing: Sequence[Statement], tasks: Statement | None
) -> Statement:
    """Return one statement for all; it fails, by a division by zero, unless each check gives as many rows as expected.

    Its rows are those of ``tasks``, after the quotient. All parts see the same snapshot.
    """
    parts = [(f"check{number}", check) for number, (check, _) in enumerate(checks)]
    parts += [(f"part{number}", statement) for number, statement in enumerate(writing)]
    if tasks is not None:
        parts.append(("tasks", tasks))
    named = ", ".join(f"{name} AS ({sql})" for name, (sql, _) in parts)
    held = " AND ".join(f"(SELECT COUNT(*) FROM check{number}) = %s" for number in range(len(checks)))
    columns, join = ("held.quotient, tasks.*", "LEFT JOIN tasks ON true") if tasks is not None else ("*", "")
    return (
        f"WITH {named} SELECT {columns} FROM (SELECT 1 / ({held})::int AS quotient) AS held {join}",
        [*(value for _, (_, values) in parts for value in values), *(expected for _, expected in checks)],
    )


def _writing(
    db: Database, done: Sequence[Commit], committed: Committed, *, lease_ms: int, worker: str
) -> tuple[list[Statement], list[Statement]]:
    """Return the statements that write turns, none of which depends on another, and those that give new activities."""
    with db.collected() as statements:
        _append_history(db, done)
        _write_executions(db, done)
        delete_messages(db, [(turn.claimed.key, key) for turn in done for key in turn.message_ids])
        _cancel_activities(db, done)
        _cancel_timers(db, done)
        _write_kv(db, done)
        _write_mail(db, done)
        outbox.send_messages(db, done, committed)
    inserts = [
        activities.Insert(
            instance=turn.claimed.key,
            execution_id=turn.execution_id,
            activity=activity,
            token=turn.eager.get(activity.event_id),
        )
        for turn in done
        for activity in turn.result.activities
    ]
    committed.offered = any(insert.token is None for insert in inserts)
    return statements, activities.insertions(db, inserts, lease_ms=lease_ms, worker=worker)


def _note_tasks(committed: Committed, rows: Sequence[Row]) -> None:
    committed.tasks = {(instance, event_id): key for key, instance, event_id in rows}


def _write_rest(db: Database, done: Sequence[Commit], committed: Committed) -> None:
    _forget_removed_kv(db, done)
    outbox.start_instances(db, done, committed)


def _guards(db: Database, turns: Sequence[Commit]) -> list[Statement]:
    """Return the statements that claim the right to write turns; they give the keys of those that have it."""
    return [
        _guard(db, [turn for turn, _ in chunk], how)
        for group, how in _by_guard(turns)
        for chunk in chunks(_STATUS_COLUMNS, [(turn, turn.result.custom_status) for turn in group])
    ]


_STATUS_COLUMNS = (("turn", "object"), ("custom_status", "payload"))


def _by_guard(turns: Sequence[Commit]) -> list[tuple[list[Commit], str]]:
    turns = sorted(turns, key=lambda turn: turn.claimed.key)
    leased = [turn for turn in turns if turn.claimed.token is not None]
    unclaimed = [turn for turn in turns if turn.claimed.token is None]
    return [(group, how) for group, how in ((leased, _LEASED), (unclaimed, _OPTIMISTIC)) if group]


# All turns are guarded by the mark of the row that they saw, leased ones by their token too; those without a claim are
# written only if nobody holds the row: waiting for another worker's row lock here could deadlock. NOT IN, as the
# planner would take the index of the open instances for =, and then look at each of them.
_LEASED = "i.lease_token = r.token"
_OPTIMISTIC = "i.lease_token IS NULL AND i.lease_until_ms <= {now} AND i.status NOT IN ('Completed', 'Failed')"

_GUARD_COLUMNS = (
    ("row_id", "bigint"), ("token", "bigint"), ("seen_mark", "bigint"), ("mark", "bigint"), ("engine", "int"),
    ("execution_id", "int"), ("event_id", "int"), ("version", "text"), ("status", "text"), ("cancelled", "boolean"),
    ("status_changed", "int"), ("custom_status", "payload"),
)  # fmt: skip


def _guard(db: Database, turns: Sequence[Commit], condition: str) -> Statement:
    values = [
        (
            turn.claimed.key,
            turn.claimed.token,
            turn.claimed.mark,
            turn.mark,
            ENGINE_VERSION if turn.input is not None else None,
            turn.execution_id,
            turn.last_event_id,
            turn.next_version,
            turn.instance_status,
            isinstance(turn.result.outcome, Failed) and turn.result.outcome.failure.is_cancelled,
            1 if turn.result.status_changed else 0,
            turn.result.custom_status if turn.result.status_changed else None,
        )
        for turn in turns
    ]
    source, parameters = db.rows(_GUARD_COLUMNS, values)
    guard = f"i.id = r.row_id AND {condition.format(now=db.now)} AND i.mark = r.seen_mark"
    lock = ""
    if condition is _OPTIMISTIC and db.features.skip_locked:
        lock = f"""WITH free AS MATERIALIZED (
            SELECT r.* FROM {source} JOIN duroxide_instance i ON {guard} FOR UPDATE OF i {db.features.skip_locked})"""
        source, guard = "free AS r", "i.id = r.row_id"
    return (
        f"""
        {lock}
        UPDATE duroxide_instance AS i SET version = r.version, status = r.status, is_cancelled = r.cancelled,
            current_execution_id = r.execution_id, last_event_id = r.event_id, turns = i.turns + 1,
            custom_status = CASE WHEN r.status_changed = 1 THEN r.custom_status ELSE i.custom_status END,
            custom_status_version = i.custom_status_version + r.status_changed, updated_ms = {db.now},
            completed_ms = CASE WHEN r.status IN ('Completed', 'Failed') THEN {db.now} END,
            lease_token = NULL, lease_until_ms = 0, attempts = 0, blocked = NULL, mark = r.mark,
            engine = COALESCE(r.engine, i.engine)
        FROM {source} WHERE {guard} RETURNING id""",
        parameters,
    )


_HISTORY_COLUMNS = (
    ("instance", "bigint"), ("execution_id", "int"), ("event_id", "int"), ("kind", "text"),
    ("source_event_id", "int"), ("timestamp_ms", "bigint"), ("data", "event"),
)  # fmt: skip


def _append_history(db: Database, done: Sequence[Commit]) -> None:
    values = [
        (
            turn.claimed.key,
            turn.execution_id,
            event.event_id,
            event.kind,
            event.source_event_id,
            event.timestamp_ms,
            event.stored_data(),
        )
        for turn in done
        for event in turn.result.events
    ]
    for chunk in chunks(_HISTORY_COLUMNS, values):
        source, parameters = db.rows(_HISTORY_COLUMNS, chunk)
        db.execute(
            f"""
            INSERT INTO duroxide_history
                (instance_id, execution_id, event_id, kind, source_event_id, timestamp_ms, data)
            SELECT r.instance, r.execution_id, r.event_id, r.kind, r.source_event_id, r.timestamp_ms, r.data
            FROM {source} WHERE true""",
            parameters,
        )


_EXECUTION_COLUMNS = (
    ("instance", "bigint"), ("execution_id", "int"), ("version", "text"), ("status", "text"),
    ("input", "payload"), ("output", "payload"), ("error", "payload"), ("event_count", "int"),
)  # fmt: skip


def _write_executions(db: Database, done: Sequence[Commit]) -> None:
    begun = [_execution_row(turn) for turn in done if turn.input is not None]
    ended = [_execution_row(turn) for turn in done if turn.input is None and turn.result.outcome is not None]
    for chunk in chunks(_EXECUTION_COLUMNS, begun):
        source, parameters = db.rows(_EXECUTION_COLUMNS, chunk)
        db.execute(
            f"""
            INSERT INTO duroxide_execution (instance_id, execution_id, version, status, input, output, error,
                event_count, started_ms, completed_ms)
            SELECT r.instance, r.execution_id, r.version, r.status, r.input, r.output, r.error, r.event_count,
                {db.now}, CASE WHEN r.status = 'Running' THEN NULL ELSE {db.now} END
            FROM {source} WHERE true""",
            parameters,
        )
    for chunk in chunks(_EXECUTION_COLUMNS, ended):
        source, parameters = db.rows(_EXECUTION_COLUMNS, chunk)
        db.execute(
            f"""
            UPDATE duroxide_execution SET status = r.status, output = r.output, error = r.error,
                event_count = r.event_count, completed_ms = {db.now}
            FROM {source} WHERE duroxide_execution.instance_id = r.instance
                AND duroxide_execution.execution_id = r.execution_id""",
            parameters,
        )


def _execution_row(turn: Commit) -> tuple[object, ...]:
    outcome = turn.result.outcome
    status, output, error = "Running", None, None
    if isinstance(outcome, Completed):
        status, output = "Completed", outcome.output
    elif isinstance(outcome, ContinuedAsNew):
        status, output = "ContinuedAsNew", outcome.input
    elif isinstance(outcome, Failed):
        status, error = "Failed", outcome.failure.to_json()
    return (
        turn.claimed.key,
        turn.execution_id,
        turn.version,
        status,
        turn.input,
        output,
        error,
        turn.last_event_id,
    )


_EVENT_COLUMNS = (("instance", "bigint"), ("execution_id", "int"), ("event_id", "int"))


def _delete_by_event(
    db: Database, done: Sequence[Commit], table: str, events_of: Callable[[Commit], list[int]], extra: str
) -> None:
    values = [(turn.claimed.key, turn.execution_id, event_id) for turn in done for event_id in events_of(turn)]
    if not values:
        return
    source, parameters = db.rows(_EVENT_COLUMNS, values)
    # No index has the events: the rows of the instances are read once, all cancels of a batch by one statement.
    instances, instances_parameter = db.any_of(f"{table}.instance_id", sorted({value[0] for value in values}))
    db.execute(
        f"""
        DELETE FROM {table} WHERE {instances} AND ((instance_id, execution_id, event_id) IN (
            SELECT r.instance, r.execution_id, r.event_id FROM {source})) {db.features.looked_up} {extra}""",
        [instances_parameter, *parameters],
    )


def _cancel_activities(db: Database, done: Sequence[Commit]) -> None:
    _delete_by_event(db, done, "duroxide_activity_task", lambda turn: turn.result.cancelled_activities, "")


def _cancel_timers(db: Database, done: Sequence[Commit]) -> None:
    extra = f"AND duroxide_message.kind = '{messages.TIMER_FIRED}'"
    _delete_by_event(db, done, "duroxide_message", lambda turn: turn.result.cancelled_timers, extra)


_KV_COLUMNS = (
    ("instance", "bigint"), ("key", "text"), ("value", "payload"), ("updated_ms", "bigint"), ("execution_id", "int"),
)  # fmt: skip


def _write_kv(db: Database, done: Sequence[Commit]) -> None:
    values = [
        (turn.claimed.key, key, *(entry or (None, 0)), turn.execution_id)
        for turn in done
        for key, entry in turn.result.kv.items()
    ]
    for chunk in chunks(_KV_COLUMNS, values):
        source, parameters = db.rows(_KV_COLUMNS, chunk)
        # The first write of an execution moves the older value into the base that its replay starts from.
        older = "duroxide_kv.execution_id < excluded.execution_id"
        db.execute(
            f"""
            INSERT INTO duroxide_kv (instance_id, key, value, updated_ms, execution_id)
            SELECT r.instance, r.key, r.value, r.updated_ms, r.execution_id FROM {source} WHERE true
            ON CONFLICT (instance_id, key) DO UPDATE SET
                base_value = CASE WHEN {older} THEN duroxide_kv.value ELSE duroxide_kv.base_value END,
                base_updated_ms = CASE WHEN {older} THEN duroxide_kv.updated_ms
                    ELSE duroxide_kv.base_updated_ms END,
                value = excluded.value, updated_ms = excluded.updated_ms, execution_id = excluded.execution_id""",
            parameters,
        )


def _forget_removed_kv(db: Database, done: Sequence[Commit]) -> None:
    """Delete the rows of removed keys once a new execution has begun: only replays of their own execution need them."""
    begun = [turn.claimed.key for turn in done if _begins_later_execution(turn)]
    if begun:
        condition, parameter = db.any_of("instance_id", begun)
        db.execute(
            f"""
            DELETE FROM duroxide_kv WHERE {condition} AND value IS NULL AND execution_id < (
                SELECT current_execution_id FROM duroxide_instance WHERE id = duroxide_kv.instance_id)""",
            [parameter],
        )


def _begins_later_execution(turn: Commit) -> bool:
    return turn.input is not None and turn.execution_id > 1


_MAIL_COLUMNS = (("id", "bigint"), ("instance", "bigint"), ("queue", "text"), ("data", "payload"))


def _write_mail(db: Database, done: Sequence[Commit]) -> None:
    consumed = [key for turn in done for key in turn.result.consumed_mail]
    if consumed:
        condition, parameter = db.any_of("id", consumed)
        db.execute(f"DELETE FROM duroxide_queue_message WHERE {condition}", [parameter])
    stored = [(mail.id, turn.claimed.key, mail.queue, mail.data) for turn in done for mail in turn.result.stored_mail]
    for chunk in chunks(_MAIL_COLUMNS, stored):
        source, parameters = db.rows(_MAIL_COLUMNS, chunk)
        db.execute(
            f"""
            INSERT INTO duroxide_queue_message (id, instance_id, queue, data, enqueued_ms)
            SELECT r.id, r.instance, r.queue, r.data, {db.now} FROM {source} WHERE true""",
            parameters,
        )
