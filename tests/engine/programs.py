"""Random orchestrations: small syntax trees that one generator interprets, and how Hypothesis makes them.

A statement or task is a tuple, its first member says what it is. A digest of everything that the function saw goes into
what it schedules, sets and returns, so that history shows it when two executions see different things.
"""

from __future__ import annotations

import itertools
import zlib

from hypothesis import strategies as st

from duroxide_django.exceptions import OrchestrationCancelled

POLICIES = [
    None,
    {"max_attempts": 2, "backoff": "none"},
    {"max_attempts": 3, "backoff": "fixed", "jitter": 0.5},
    {"max_attempts": 2, "backoff": "linear", "timeout_ms": 40},
    {"max_attempts": 3, "backoff": "none", "timeout_ms": 40, "retry_timeouts": True},
    {"max_attempts": 3, "total_timeout_ms": 90},
]

#: Executions of one instance; the last one does not continue as new.
MAX_EXECUTIONS = 3


class Program:
    """An orchestration function made of statements."""

    def __init__(self, statements):
        self.statements = statements

    def __repr__(self):
        return f"Program({self.statements!r})"

    def __call__(self, ctx, input):
        seen = [input]
        ctx._execution.numbers = itertools.count(1)
        yield from self._run(ctx, self.statements, seen)
        return digest(seen)

    def _run(self, ctx, statements, seen):
        for statement in statements:
            kind, *parts = statement
            if kind == "do":
                value = yield self._task(ctx, parts[0], seen)
                seen.append(value)
            elif kind == "try":
                try:
                    yield from self._run(ctx, parts[0], seen)
                except Exception as exc:  # noqa: BLE001 - as the user guide does it
                    seen.append(f"{type(exc).__name__}: {exc}")
                    yield from self._run(ctx, parts[1], seen)
            elif kind == "clean up":
                try:
                    yield from self._run(ctx, parts[0], seen)
                except OrchestrationCancelled as exc:
                    seen.append(str(exc))
                    yield from self._run(ctx, parts[1], seen)
                    raise
            elif kind == "finally":
                try:
                    yield from self._run(ctx, parts[0], seen)
                finally:
                    for at_once in parts[1]:
                        self._at_once(ctx, at_once, seen)
            elif kind == "repeat":
                for _ in range(parts[0]):
                    yield from self._run(ctx, parts[1], seen)
            elif kind == "if":
                yield from self._run(ctx, parts[digest(seen) % 2], seen)
            elif kind == "raise":
                raise ValueError(f"raised after {digest(seen)}")
            else:
                self._at_once(ctx, statement, seen)

    def _at_once(self, ctx, statement, seen):
        """Do what needs no yield."""
        kind, *parts = statement
        if kind == "set":
            ctx.set_kv_value(parts[0], digest(seen))
        elif kind == "clear":
            ctx.clear_kv_value(parts[0])
        elif kind == "clear all":
            ctx.clear_all_kv_values()
        elif kind == "prune":
            times = [value for value in seen if isinstance(value, int) and value > 10**12]
            seen.append(ctx.prune_kv_values_updated_before(times[-1] if times else 0))
        elif kind == "read":
            seen.append(ctx.get_kv_all_values())
        elif kind == "status":
            ctx.set_custom_status(digest(seen))
        elif kind == "reset":
            ctx.reset_custom_status()
        elif kind == "ask":
            seen.append(ctx.get_custom_status())
        else:
            ctx.trace_info(f"saw {len(seen)}")

    def _task(self, ctx, task, seen):  # noqa: C901, PLR0912 - one case for each kind of task
        kind, *parts = task
        if kind == "activity":
            made = ctx.schedule_activity(parts[0], digest(seen), session_id=parts[1])
            return made if parts[2] is None else made.with_tag(parts[2])
        if kind == "retry":
            return ctx.schedule_activity_with_retry(parts[0], len(seen), POLICIES[parts[1]])
        if kind == "timer":
            return ctx.schedule_timer(parts[0])
        if kind == "event":
            return ctx.wait_for_event(parts[0])
        if kind == "queue":
            return ctx.dequeue_event(parts[0])
        if kind == "child":
            return ctx.schedule_sub_orchestration(parts[0], digest(seen))
        if kind == "named child":
            return ctx.schedule_sub_orchestration_with_id(
                parts[0], f"child-{ctx.execution_id}-{next(ctx._execution.numbers)}", digest(seen)
            )
        if kind == "detached":
            return ctx.start_orchestration("Audit", f"audit-{len(seen)}", digest(seen))
        if kind == "now":
            return ctx.utc_now()
        if kind == "guid":
            return ctx.new_guid()
        if kind == "other":
            return ctx.get_kv_value_from_instance("other", "key")
        if kind == "renew":
            last = ctx.execution_id >= MAX_EXECUTIONS
            return ctx.utc_now() if last else ctx.continue_as_new(digest(seen))
        if kind == "block":
            return self._block(ctx, parts[0], seen)
        if kind == "all":
            members = [self._task(ctx, member, seen) for member in parts[0]]
            return ctx.all_typed(members) if parts[1] == "typed" else ctx.all(members, fail_fast=parts[1] == "fast")
        if kind == "race":
            return ctx.race(*[self._task(ctx, member, seen) for member in parts[0]])
        return "no task"

    def _block(self, ctx, statements, seen):
        own = [len(seen)]
        yield from self._run(ctx, statements, own)
        # The outer list is not written to: which block writes first is part of the state, too.
        seen.append(("block", digest(own)))
        return digest(own)


def digest(seen) -> int:
    """Return a number that stands for everything seen."""
    return zlib.crc32(repr(seen).encode()) % 10_000


# Making programs: drawn by hand rather than by st.recursive, whose descriptions of itself grow without bounds.

NAMES = ["x", "y"]
AT_ONCE = [
    *[(kind, name) for kind in ("set", "clear") for name in NAMES],
    *[(kind,) for kind in ("clear all", "prune", "read", "status", "reset", "ask", "trace")],
]
SINGLE_TASKS = [
    *[("activity", name, session, tag) for name in NAMES for session, tag in ((None, None), ("s", "gpu"))],
    *[("retry", "x", policy) for policy in range(len(POLICIES))],
    *[("timer", delay_ms) for delay_ms in (0, 20, 50)],
    *[(kind, name) for kind in ("event", "queue") for name in NAMES * 2],
    *[(kind, "x") for kind in ("child", "named child")],
    *[(kind,) for kind in ("now", "guid", "other", "detached", "renew", "nonsense")],
]
COMPOSED = ["all", "race", "race", "block"]
STATEMENTS = [*["do"] * 6, *["at once"] * 3, *["try"] * 3, "clean up", *["finally"] * 2, "repeat", "if", "raise"]
#: How deep tasks and statements nest.
DEPTH = 4

single = st.sampled_from(SINGLE_TASKS)
at_once = st.sampled_from(AT_ONCE)


@st.composite
def programs(draw) -> Program:
    """Return a random program."""
    return Program(_statements(draw, DEPTH, 6))


def _statements(draw, depth, most):
    return tuple(_statement(draw, depth) for _ in range(draw(st.integers(1, most))))


def _statement(draw, depth):
    kind = draw(st.sampled_from(STATEMENTS))
    # An error that nothing catches would end most programs early.
    if kind == "do" or (kind == "raise" and depth == DEPTH) or (depth <= 0 and kind not in ("at once", "raise")):
        return "do", _task(draw, depth)
    if kind == "at once":
        return draw(at_once)
    if kind == "raise":
        return (kind,)
    body = _statements(draw, depth - 1, 3)
    if kind == "finally":
        return kind, body, tuple(draw(st.lists(at_once, max_size=2)))
    if kind == "repeat":
        return kind, draw(st.integers(2, 3)), body
    return kind, body, _statements(draw, depth - 1, 3)


def _task(draw, depth):
    if depth <= 0 or draw(st.integers(0, 2)):
        return draw(single)
    kind = draw(st.sampled_from(COMPOSED))
    if kind == "block":
        return kind, _statements(draw, depth - 2, 3)
    members = [_task(draw, depth - 1) for _ in range(draw(st.integers(kind == "race", 3)))]
    # What is refused before anything happens needs no random test.
    members = tuple(member for member in members if member[0] not in ("renew", "nonsense")) or (("timer", 20),)
    return (kind, members, draw(st.sampled_from(["plain", "fast", "typed"]))) if kind == "all" else (kind, members)
