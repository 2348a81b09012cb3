"""Replaying live instances on the code of this process, without committing anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from duroxide_django.engine.registry import Registry
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.exceptions import CorruptHistory, NewerEngine, NondeterminismError, PayloadUnreadable
from duroxide_django.runtime.config import engine_options
from duroxide_django.storage import health, turns
from duroxide_django.storage.database import Database, Row

#: Instances read at once.
WINDOW = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One instance's check.

    Attributes:
        problem: ``nondeterminism``, ``missing_code``, ``newer_engine``, ``corrupt_history``, ``payload_unreadable``;
            None: it replays.
        message: the problem in words.
    """

    instance_id: str
    name: str
    version: str
    events: int
    problem: str | None = None
    message: str = ""


def check(db: Database, registry: Registry, *, name: str | None, limit: int | None) -> Iterator[Checked]:
    """Give the check of every running instance, oldest first.

    Args:
        name: only this orchestration.
        limit: how many at the most; None: all.
    """
    after, left = 0, limit
    while left is None or left > 0:
        rows = health.replayable(db, after, name=name, size=WINDOW if left is None else min(WINDOW, left))
        if not rows:
            return
        executions = [(row[0], row[4]) for row in rows]
        histories = turns.read_histories(db, executions)
        unreadable: turns.Unreadable = {}
        bases = turns.read_kv_bases(db, executions, unreadable)
        for row in rows:
            checked = _check(registry, row, histories.get(row[0], []), bases.get(row[0], {}))
            if row[0] in unreadable:
                error = unreadable[row[0]]
                problem = "payload_unreadable" if isinstance(error, PayloadUnreadable) else "corrupt_history"
                checked = replace(checked, problem=problem, message=str(error))
            yield checked
        after = rows[-1][0]
        left = None if left is None else left - len(rows)


def _check(
    registry: Registry, row: Row, history: list[turns.StoredEvent], kv_base: dict[str, tuple[str, int]]
) -> Checked:
    _, instance_id, name, version, execution_id = row

    def result(problem: str | None = None, message: str = "") -> Checked:
        return Checked(
            instance_id=instance_id,
            name=name,
            version=version,
            events=len(history),
            problem=problem,
            message=message,
        )

    found = registry.resolve(name, version)
    if found is None:
        return result("missing_code", registry.describe_missing(name, version))
    execution = LiveExecution(
        instance_id=instance_id,
        execution_id=execution_id,
        name=name,
        version=found[0],
        function=found[1],
        kv_base=kv_base,
        options=engine_options(),
    )
    try:
        events = turns.decode_history(history)
        if any(event.kind == "OrchestrationContinuedAsNew" for event in events):
            # The next execution begins with the next turn, on any code.
            return result()
        execution.replay(events)
    except NondeterminismError as exc:
        return result("nondeterminism", str(exc))
    except PayloadUnreadable as exc:
        return result("payload_unreadable", str(exc))
    except NewerEngine as exc:
        return result("newer_engine", str(exc))
    except CorruptHistory as exc:
        return result("corrupt_history", str(exc))
    finally:
        execution.close()
    return result()
