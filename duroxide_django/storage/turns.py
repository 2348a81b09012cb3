"""Claiming instances that have messages, reading what their turns need, and giving them up again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from duroxide_django.engine import events
from duroxide_django.engine.events import ENGINE_VERSION
from duroxide_django.engine.kv import Entry
from duroxide_django.engine.messages import CONTINUE_AS_NEW, START, TIMER_FIRED, Mail, Message
from duroxide_django.exceptions import CorruptHistory, CorruptRow, DuroxideError
from duroxide_django.storage import large
from duroxide_django.storage.database import Database, new_token
from duroxide_django.storage.payloads import seal_blocked, unseal, unseal_event, unseal_optional
from duroxide_django.storage.shapes import OPTIONAL_INT, OPTIONAL_TEXT, Shape, fits, mended, moment

#: Instance keys with why a row or payload of theirs can't be read.
Unreadable = dict[int, DuroxideError]

#: Messages read for one batch; what lies beyond stays in the queue for the next turn.
MAX_BATCH_MESSAGES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is read of the messages of a batch; what lies beyond stays in the queue for the next turn.

    Attributes:
        messages: rows of all instances.
        turn: bytes of one instance; its first message may have more.
        batch: bytes of all instances; the first message may have more.
    """

    messages: int
    turn: int
    batch: int


@dataclass(slots=True, kw_only=True)
class Claimed:
    """An instance's row as its turn needs it.

    Attributes:
        key: the row's key: one life of the instance id.
        mark: random mark of the last committed turn, or of a later change of the row by a client.
        token: the turn lease, or None when the row was not claimed.
        custom_status: as it is stored (see ``initial_custom_status``).
        corrupt: why the row can't be read, or None; values that have no meaning are empty then.
        counted: whether this claim is among the ``attempts`` of its row; see ``recount``.
    """

    key: int
    instance_id: str
    name: str
    version: str | None
    status: str
    execution_id: int
    last_event_id: int
    mark: int
    parent: int | None
    parent_execution_id: int | None
    parent_event_id: int | None
    custom_status: str | None
    attempts: int
    token: int | None
    blocked: str | None = None
    corrupt: CorruptRow | None = None
    counted: bool = True

    def initial_custom_status(self) -> str | None:
        """Return the custom status that its next execution begins with; raises PayloadUnreadable."""
        return unseal_optional(self.custom_status)


def claim(
    db: Database,
    *,
    limit: int,
    lease_ms: int,
    known: Sequence[str] = (),
    grace_ms: int = 0,
    patience_ms: int = 0,
    relaxed: bool = False,
    only: int | None = None,
) -> tuple[list[Claimed], int, int | None]:
    """Lease up to ``limit`` instances that have visible messages, the longest visible first.

    Args:
        lease_ms: milliseconds until another worker may claim them.
        known: ``name@version`` of the code this worker has, and ``name@`` for any version.
        grace_ms: milliseconds for which instances with other code, or of a newer engine, are left to other workers.
        patience_ms: milliseconds for which all are left to the worker that leads.
        relaxed: let this transaction's commit return before it is on disk: a lease that a crash of the server
            forgets is merely taken again.
        only: no other instance than the one with this row key.

    Returns:
        the instances, the database's time in epoch milliseconds (0 if none was claimed), and when the next claim will
        find something new (see ``next_visible_ms``).
    """
    token = new_token()
    lock = f"FOR UPDATE OF i {db.features.skip_locked}" if db.features.skip_locked else ""
    has_code, parameter = _has_code(db, known)
    one = "" if only is None else f"AND i.id = {int(only)}"
    found = db.fetch(
        f"""
        WITH candidate AS MATERIALIZED (
            SELECT i.id FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
            WHERE m.visible_at_ms <= {db.now} - %s AND i.lease_until_ms <= {db.now}
                AND ({has_code} OR m.visible_at_ms <= {db.now} - %s) {one}
            ORDER BY m.visible_at_ms, m.id LIMIT %s {lock})
        UPDATE duroxide_instance SET lease_token = %s, lease_until_ms = {db.now} + %s, attempts = attempts + 1
        WHERE id IN (SELECT id FROM candidate)
        RETURNING id, instance_id, name, version, status, current_execution_id, last_event_id, mark, parent_id,
            parent_execution_id, parent_event_id, custom_status, attempts, blocked, {db.now},
            ({_NEXT.format(now=db.now)}),
            {db.features.relaxed_commit if relaxed else "NULL"}""",
        [patience_ms, parameter, grace_ms, limit, token, lease_ms, patience_ms],
    )
    if not found:
        return [], 0, next_visible_ms(db, patience_ms=patience_ms)
    found.sort(key=lambda row: row[0])
    *_, now_ms, next_ms, _ = found[0]
    next_ms = moment(next_ms)
    return [_claimed(row, token) for row in found], int(now_ms), None if next_ms is None else next_ms + patience_ms


def candidates(db: Database, *, limit: int) -> list[int]:
    """Return the row keys of up to ``limit`` instances that ``claim`` would lease, whatever their code."""
    found = db.fetch(
        f"""
        SELECT i.id FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
        WHERE m.visible_at_ms <= {db.now} AND i.lease_until_ms <= {db.now}
        GROUP BY i.id ORDER BY MIN(m.visible_at_ms), i.id LIMIT %s""",
        [limit],
    )
    return [key for (key,) in found]


def put_off(db: Database, key: int, *, delay_ms: int) -> None:
    """Hide the messages of an instance that can't be leased for ``delay_ms`` milliseconds."""
    db.execute(
        f"""UPDATE duroxide_message SET visible_at_ms = {db.now} + %s
        WHERE instance_id = %s AND visible_at_ms <= {db.now}""",
        [delay_ms, key],
    )


def record_blocked(db: Database, key: int, blocked: dict[str, object]) -> None:
    """Record why an instance that can't be leased can't go on."""
    db.execute("UPDATE duroxide_instance SET blocked = %s WHERE id = %s", [seal_blocked(blocked), key])


def _has_code(db: Database, known: Sequence[str]) -> tuple[str, Any]:
    """Return (condition that this worker can compute instance ``i``, its parameter)."""
    condition, parameter = db.any_of("(i.name || '@' || COALESCE(i.version, ''))", known)
    return f"({condition} AND i.engine <= {ENGINE_VERSION})", parameter


#: When the next message becomes visible.
_NEXT = (
    "SELECT n.visible_at_ms FROM duroxide_message n WHERE n.visible_at_ms > {now} - %s ORDER BY n.visible_at_ms LIMIT 1"
)


_CLAIMED_SHAPE = (
    int, str, str, OPTIONAL_TEXT, str, int, int, int, OPTIONAL_INT, OPTIONAL_INT, OPTIONAL_INT, OPTIONAL_TEXT, int,
    OPTIONAL_TEXT,
)  # fmt: skip


def _claimed(row: Sequence[Any], token: int | None) -> Claimed:
    corrupt = None
    if not fits(row, _CLAIMED_SHAPE):
        row, corrupt = mended(row, _CLAIMED_SHAPE, f"The row {row[0]} of duroxide_instance")
    return Claimed(
        key=row[0],
        instance_id=row[1],
        name=row[2],
        version=row[3],
        status=row[4],
        execution_id=row[5],
        last_event_id=row[6],
        mark=row[7],
        parent=row[8],
        parent_execution_id=row[9],
        parent_event_id=row[10],
        custom_status=row[11],
        attempts=row[12],
        blocked=row[13],
        token=token,
        corrupt=corrupt,
    )


@dataclass(slots=True, kw_only=True)
class Fresh:
    """What ``read_fresh`` read.

    Attributes:
        claimed: the instances, without a lease.
        batches: their messages by row key, as of ``read_messages``.
        unreadable: instances with a payload that can't be read, and why.
        now_ms: the database's time, epoch milliseconds; 0 if there was nothing.
        next_ms: see ``next_visible_ms``.
    """

    claimed: list[Claimed] = field(default_factory=list)
    batches: dict[int, list[Message]] = field(default_factory=lambda: defaultdict(list))
    unreadable: Unreadable = field(default_factory=dict)
    now_ms: int = 0
    next_ms: int | None = None


#: Status, attempts, blocked, payload and visible_at_ms of a row of ``read_fresh``.
_FRESH = itemgetter(4, 12, 13, 20, 23)


def read_fresh(
    db: Database,
    *,
    limit: int,
    max_bytes: int,
    known: Sequence[str],
    grace_ms: int,
    since_ms: int,
    within_ms: int,
    is_quick: Callable[[Claimed], bool],
) -> Fresh | None:
    """Read the instances whose messages have just become visible, with these messages; nothing is leased or written.

    Their turns are guarded as turns of local completions are: by the mark that the instance's row had. So two
    workers may read the same; one of them then has computed in vain.

    Args:
        limit: so many messages are too many: they are to be leased.
        max_bytes: a message is to be leased if ``limit`` messages of its size would have more bytes together.
        known, grace_ms: see ``claim``.
        since_ms: older messages, by the time they became visible, epoch milliseconds, are to be leased: what made this
            worker's predecessor die must be counted.
        within_ms: messages that have been visible for more milliseconds are to be leased.
        is_quick: whether a turn of this instance will end before another worker begins to wonder.

    Returns:
        None: something must be leased, so ``claim``.
    """
    has_code, parameter = _has_code(db, known)
    found = db.fetch(
        f"""
        SELECT i.id, i.instance_id, i.name, i.version, i.status, i.current_execution_id, i.last_event_id, i.mark,
            i.parent_id, i.parent_execution_id, i.parent_event_id,
            CASE WHEN m.kind = '{CONTINUE_AS_NEW}' THEN i.custom_status END, i.attempts, i.blocked, {db.now},
            m.id, m.kind, m.execution_id, m.event_id, m.name, {large.inline(db, "m.payload", most=max_bytes // limit)},
            m.force, m.due_ms, m.visible_at_ms,
            ({_NEXT.format(now=db.now)})
        FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
        WHERE m.visible_at_ms <= {db.now} AND i.lease_until_ms <= {db.now}
            AND ({has_code} OR m.visible_at_ms <= {db.now} - %s)
        ORDER BY m.visible_at_ms, m.id LIMIT %s""",
        [0, parameter, grace_ms, limit],
    )
    if not found:
        return Fresh(next_ms=next_visible_ms(db))
    now_ms = int(found[0][14])
    oldest_ms = max(since_ms, now_ms - within_ms)
    if len(found) >= limit or any(
        status != "Running" or attempts or blocked or payload is None or visible_at_ms <= oldest_ms
        for status, attempts, blocked, payload, visible_at_ms in map(_FRESH, found)
    ):
        return None
    fresh = Fresh(now_ms=now_ms, next_ms=moment(found[0][24]))
    claimed: dict[int, Claimed] = {}
    for row in _in_order(found, key=15, kind=16, due_ms=22):
        key = row[0]
        if key not in claimed:
            claimed[key] = _claimed(row, None)
            if claimed[key].corrupt is not None or not is_quick(claimed[key]):
                return None
        fresh.batches[key].append(_message(key, row[15:22], fresh.unreadable))
    fresh.claimed = [claimed[key] for key in sorted(claimed)]
    return fresh


def has_claimable(db: Database) -> bool:
    """Return whether ``claim`` would find an instance; takes no lock."""
    return bool(
        db.fetch(
            f"""
            SELECT m.id FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
            WHERE m.visible_at_ms <= {db.now} AND i.lease_until_ms <= {db.now}
            ORDER BY m.visible_at_ms, m.id LIMIT 1"""
        )
    )


def next_visible_ms(db: Database, *, but: Collection[int] = (), patience_ms: int = 0) -> int | None:
    """Return when ``claim`` will find something new, in epoch milliseconds, or None: no message is hidden.

    Args:
        but: row keys of instances whose messages don't count.
        patience_ms: see ``claim``.
    """
    others, parameters = "", []
    if but:
        condition, parameter = db.any_of("instance_id", list(but))
        others, parameters = f"AND NOT ({condition})", [parameter]
    found = db.fetch(
        f"""SELECT visible_at_ms FROM duroxide_message WHERE visible_at_ms > {db.now} - %s {others}
        ORDER BY visible_at_ms LIMIT 1""",
        [patience_ms, *parameters],
    )
    next_ms = moment(found[0][0]) if found else None
    return None if next_ms is None else next_ms + patience_ms


def next_lease_end_ms(db: Database) -> int | None:
    """Return when the next lease ends of an instance that has due messages, in epoch milliseconds, or None."""
    found = db.fetch(
        f"""
        SELECT MIN(i.lease_until_ms) FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
        WHERE m.visible_at_ms <= {db.now} AND i.lease_until_ms > {db.now} AND i.lease_token IS NOT NULL"""
    )
    return None if found[0][0] is None else int(found[0][0])


#: Stands for a payload that can't be read, in messages of an instance that is not computed for that reason.
_UNREADABLE = '"[unreadable]"'


def _payload(stored: str, instance: int, unreadable: Unreadable | None) -> str:
    try:
        return unseal(stored)
    except DuroxideError as exc:
        if unreadable is None:
            raise
        unreadable[instance] = exc
        return _UNREADABLE


def read_messages(
    db: Database,
    keys: Sequence[int],
    unreadable: Unreadable,
    bounds: Bounds,
    since_ms: dict[int, int] | None = None,
) -> tuple[dict[int, list[Message]], bool]:
    """Return the visible messages of instances, each list in its order (see ``_in_order``).

    What begins an execution comes first, or a flood of older messages could push it out of the batch.

    Args:
        unreadable: gets the instances whose messages can't be read.
        since_ms: gets when the first message of each became visible, epoch milliseconds.

    Returns:
        the messages by instance key, and whether any were left in the queue for their size.
    """
    condition, parameter = db.any_of("instance_id", keys)
    found = db.fetch(
        f"""
        SELECT instance_id, visible_at_ms, {db.features.byte_length("payload")}, id, kind, execution_id, event_id,
            name, {large.inline(db, "payload")}, force, due_ms
        FROM duroxide_message WHERE {condition} AND visible_at_ms <= {db.now}
        ORDER BY CASE WHEN kind IN (%s, %s) THEN 0 ELSE 1 END, id LIMIT {bounds.messages}""",
        [parameter, START, CONTINUE_AS_NEW],
    )
    ordered = _in_order(found, key=3, kind=4, due_ms=10)
    in_reach = len(ordered) if len(found) < bounds.messages else _in_reach([row[4] for row in ordered])
    places, left = large.take([(row[0], row[2]) for row in ordered[:in_reach]], each=bounds.turn, together=bounds.batch)
    left = left or in_reach < len(ordered)
    outsize = [(ordered[place][0], ordered[place][3]) for place in places if ordered[place][2] > large.INLINE_BYTES]
    texts = large.read_texts(db, "duroxide_message", "payload", outsize)
    batches: dict[int, list[Message]] = defaultdict(list)
    since_ms = {} if since_ms is None else since_ms
    for place in places:
        instance, visible_at_ms, size, *row, _ = ordered[place]
        if size > large.INLINE_BYTES:
            if row[0] not in texts:
                continue  # A client deleted it since.
            row[5] = texts[row[0]]
        batches[instance].append(_message(instance, row, unreadable))
        since_ms[instance] = min(visible_at_ms, since_ms.get(instance, visible_at_ms))
    return batches, left


def _in_order(rows: Sequence[Sequence[Any]], *, key: int, kind: int, due_ms: int) -> list[Sequence[Any]]:
    """Return rows of messages in the order in which they are processed; the arguments are places in a row.

    What begins an execution comes first. The others are in the order of their ids, which no clock changes; timers go
    among them by the time at which they were due.
    """
    begins: list[Sequence[Any]] = []
    others: list[Sequence[Any]] = []
    timers: list[Sequence[Any]] = []
    for row in rows:
        chosen = begins if row[kind] in (START, CONTINUE_AS_NEW) else timers if row[kind] == TIMER_FIRED else others
        chosen.append(row)
    for part in (begins, others):
        part.sort(key=itemgetter(key))
    if not timers:
        return begins + others
    timers.sort(key=lambda row: (moment(row[due_ms]) or 0, row[key]), reverse=True)
    merged = begins
    for row in others:
        while timers and (moment(timers[-1][due_ms]) or 0, timers[-1][key]) < (moment(row[due_ms]) or 0, row[key]):
            merged.append(timers.pop())
        merged.append(row)
    return merged + timers[::-1]


def _in_reach(kinds: Sequence[str]) -> int:
    """Return how many of the messages that a limit has cut can be processed, given the kinds in their order.

    Timers at the end are left: what came before they were due may be among what was not read.
    """
    last = next((place for place in range(len(kinds) - 1, -1, -1) if kinds[place] != TIMER_FIRED), None)
    return len(kinds) if last is None else last + 1


_MESSAGE_SHAPE = (int, str, OPTIONAL_INT, OPTIONAL_INT, OPTIONAL_TEXT, str, int)


def _message(instance: int, row: Sequence[Any], unreadable: Unreadable) -> Message:
    key, kind, execution_id, event_id, name, payload, force = _whole(
        row, _MESSAGE_SHAPE, "duroxide_message", instance, unreadable
    )
    return Message(
        id=key,
        kind=kind,
        execution_id=execution_id,
        event_id=event_id,
        name=name,
        payload=_payload(payload, instance, unreadable),
        force=bool(force),
    )


#: A stored event before decoding: (event id, kind, source event id, timestamp, data).
StoredEvent = tuple[int, str, int | None, int, str]


def read_histories(db: Database, executions: Sequence[tuple[int, int]]) -> dict[int, list[StoredEvent]]:
    """Return the recorded events of executions, given as (instance key, execution id), by instance key."""
    if not executions:
        return {}
    source, parameters = db.rows((("instance", "bigint"), ("execution_id", "int")), executions)
    found = db.fetch(
        f"""
        SELECT h.instance_id, h.event_id, h.kind, h.source_event_id, h.timestamp_ms, h.data
        FROM {source} JOIN duroxide_history h ON h.instance_id = r.instance AND h.execution_id = r.execution_id""",
        parameters,
    )
    # Sorted here: told not to sort, the loop's connection would walk the index of all histories instead.
    histories: dict[int, list[StoredEvent]] = defaultdict(list)
    try:
        found.sort(key=itemgetter(0, 1))
    except TypeError:
        # An event id that is no number: its history is what can't be read, not those of the others.
        found.sort(key=lambda row: (row[0], moment(row[1]) or 0))
    for instance, *stored in found:
        histories[instance].append(tuple(stored))
    return histories


_EVENT_SHAPE = (int, str, OPTIONAL_INT, int, str)


def decode(stored: StoredEvent) -> events.Event:
    """Return the event of a stored row; raises CorruptHistory, or PayloadUnreadable."""
    event_id, kind, source_event_id, timestamp_ms, data = stored
    if not fits(stored, _EVENT_SHAPE):
        raise CorruptHistory(f"Event {event_id!r} ({kind!r}) can't be decoded: a value is of a wrong type.")
    return events.from_stored(
        kind=kind,
        event_id=event_id,
        timestamp_ms=timestamp_ms,
        source_event_id=source_event_id,
        data=unseal_event(data),
    )


def decode_history(stored: Sequence[StoredEvent]) -> list[events.Event]:
    """Return the events of an execution.

    Raises:
        NewerEngine: a newer release began it; its other events may be of kinds that are not known here.
        CorruptHistory: an event can't be read.
        PayloadUnreadable: a key or a codec is missing.
    """
    if stored:
        events.require_known_engine(decode(stored[0]))
    return [decode(row) for row in stored]


_KV_SHAPE = (str, OPTIONAL_TEXT, OPTIONAL_INT)
_MAIL_SHAPE = (int, str, str)


def _whole(row: Sequence[Any], shape: Shape, table: str, instance: int, unreadable: Unreadable | None) -> Sequence[Any]:
    """Return a row that fits; one that doesn't is noted as unreadable, or raised as CorruptRow."""
    if fits(row, shape):
        return row
    row, corrupt = mended(row, shape, f"The row {row[0]!r} of {table}")
    if unreadable is None:
        raise corrupt
    unreadable[instance] = corrupt
    return row


def read_kv_bases(
    db: Database, executions: Sequence[tuple[int, int]], unreadable: Unreadable | None = None
) -> dict[int, dict[str, Entry]]:
    """Return the KV entries at the start of executions, given as (instance key, execution id), by instance key.

    Args:
        unreadable: gets the instances whose payloads can't be read; None: PayloadUnreadable is raised.
    """
    if not executions:
        return {}
    source, parameters = db.rows((("instance", "bigint"), ("execution_id", "int")), executions)
    found = db.fetch(
        f"""
        SELECT k.instance_id, k.key,
            CASE WHEN k.execution_id < r.execution_id THEN k.value ELSE k.base_value END,
            CASE WHEN k.execution_id < r.execution_id THEN k.updated_ms ELSE k.base_updated_ms END
        FROM {source} JOIN duroxide_kv k ON k.instance_id = r.instance""",
        parameters,
    )
    bases: dict[int, dict[str, Entry]] = defaultdict(dict)
    for instance, *row in found:
        key, value, updated_ms = _whole(row, _KV_SHAPE, "duroxide_kv", instance, unreadable)
        if value is not None:
            bases[instance][key] = (_payload(value, instance, unreadable), updated_ms or 0)
    return bases


def read_mail(db: Database, keys: Sequence[int], unreadable: Unreadable | None = None) -> dict[int, list[Mail]]:
    """Return the waiting queue messages of instances, in order; see read_kv_bases()."""
    if not keys:
        return {}
    condition, parameter = db.any_of("instance_id", keys)
    found = db.fetch(
        f"SELECT instance_id, id, queue, data FROM duroxide_queue_message WHERE {condition}",
        [parameter],
    )
    mail: dict[int, list[Mail]] = defaultdict(list)
    for instance, *row in sorted(found, key=itemgetter(1)):
        key, queue, data = _whole(row, _MAIL_SHAPE, "duroxide_queue_message", instance, unreadable)
        mail[instance].append(Mail(id=key, queue=queue, data=_payload(data, instance, unreadable)))
    return mail


def parent_ids(db: Database, keys: Sequence[int]) -> dict[int, str]:
    """Return instance ids by row key."""
    if not keys:
        return {}
    condition, parameter = db.any_of("id", keys)
    return dict(db.fetch(f"SELECT id, instance_id FROM duroxide_instance WHERE {condition}", [parameter]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A claimed instance whose turn can't be run now.

    Attributes:
        delay_ms: milliseconds until the next try.
        blocked: why, as JSON-able mapping; None leaves what is recorded.
        keep_attempt: whether this try counts towards poison.
    """

    claimed: Claimed
    delay_ms: int
    blocked: dict[str, object] | None
    keep_attempt: bool = False


_PARK_COLUMNS = (
    ("key", "bigint"), ("token", "bigint"), ("delay", "bigint"), ("blocked", "text"), ("attempt", "int"),
)  # fmt: skip


def park(db: Database, parked: Sequence[Parked]) -> None:
    """Give claimed instances back, to be tried again after their delay; their messages stay.

    The lease stays without a token until then, and the visible messages are hidden as long, so that claims don't
    have to look past them. ``due_ms`` keeps their order.
    """
    if not parked:
        return
    values = [
        (
            item.claimed.key,
            item.claimed.token,
            item.delay_ms,
            None if item.blocked is None else seal_blocked(item.blocked),
            0 if item.keep_attempt else int(item.claimed.counted),
        )
        for item in sorted(parked, key=lambda item: item.claimed.key)
    ]
    source, parameters = db.rows(_PARK_COLUMNS, values)
    found = db.fetch(
        f"""
        UPDATE duroxide_instance SET lease_token = NULL, lease_until_ms = {db.now} + r.delay,
            attempts = attempts - r.attempt, blocked = COALESCE(r.blocked, duroxide_instance.blocked)
        FROM {source} WHERE duroxide_instance.id = r.key AND duroxide_instance.lease_token = r.token
        RETURNING id""",
        parameters,
    )
    held = {key for (key,) in found}
    hidden = [(item.claimed.key, item.delay_ms) for item in parked if item.delay_ms and item.claimed.key in held]
    if not hidden:
        return
    source, parameters = db.rows((("key", "bigint"), ("delay", "bigint")), hidden)
    # After the instances: a message must not become visible before its instance can be claimed.
    db.execute(
        f"""
        UPDATE duroxide_message SET visible_at_ms = {db.now} + r.delay
        FROM {source} WHERE duroxide_message.instance_id = r.key
            AND duroxide_message.visible_at_ms <= {db.now} AND duroxide_message.kind <> 'CancelInstance'""",
        parameters,
    )


def recount(db: Database, claimed: Sequence[Claimed], by: int) -> set[int]:
    """Add ``by`` to the attempts of leased instances; returns the keys of those that are leased and not locked.

    A claim that may die of another turn's or an activity's doing must not count towards poison.
    """
    values = [(item.key, item.token) for item in sorted(claimed, key=lambda item: item.key)]
    source, parameters = db.rows((("key", "bigint"), ("token", "bigint")), values)
    lock = f"FOR UPDATE OF i {db.features.skip_locked}" if db.features.skip_locked else ""
    found = db.fetch(
        f"""
        UPDATE duroxide_instance SET attempts = attempts + %s
        WHERE id IN (
            SELECT i.id FROM duroxide_instance i JOIN {source} ON i.id = r.key AND i.lease_token = r.token {lock})
        RETURNING id""",
        [by, *parameters],
    )
    return {key for (key,) in found}


def discard(db: Database, claimed: Sequence[tuple[Claimed, Sequence[int]]]) -> None:
    """Delete messages that have no effect any more, and give their instances back.

    An instance that an operator reopened after it was read keeps them: they may be the ones that were sent for that.
    """
    # The instances' rows first, as everywhere (see architecture.md, Order of locks).
    park(db, [Parked(claimed=item, delay_ms=0, blocked=None) for item, _ in claimed])
    keys = sorted((item.key, key) for item, ids in claimed for key in ids)
    if keys:
        condition, parameters = db.keyed("duroxide_message", keys)
        db.execute(
            f"""
            DELETE FROM duroxide_message WHERE {condition} AND EXISTS (
                SELECT 1 FROM duroxide_instance i
                WHERE i.id = duroxide_message.instance_id AND i.status IN ('Completed', 'Failed'))""",
            parameters,
        )


def delete_messages(db: Database, keys: Sequence[tuple[int, int]]) -> None:
    """Delete messages, given as (instance key, id)."""
    if keys:
        condition, parameters = db.keyed("duroxide_message", keys)
        db.execute(f"DELETE FROM duroxide_message WHERE {condition}", parameters)
