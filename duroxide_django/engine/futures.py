"""Futures: what a yielded task becomes. Leaves wait for events, nodes for other futures."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from duroxide_django.engine import limits, tasks
from duroxide_django.engine.codecs import decode_as, loads
from duroxide_django.engine.failures import TIMEOUT_TYPES
from duroxide_django.exceptions import DuroxideError, InvalidTask, TaskFailed, TaskTimeout

if TYPE_CHECKING:
    from duroxide_django.engine.replay import LiveExecution

ACTIVITY = "activity"
TIMER = "timer"
EVENT = "event"
QUEUE = "queue"
CHILD = "sub-orchestration"
SYSCALL = "syscall"


class Future:
    """A result to come.

    Attributes:
        done: whether ``value`` or ``error`` is there.
        owner: the node that waits for it.
    """

    __slots__ = ("done", "error", "index", "owner", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.owner: Node | None = None
        self.index = 0

    def resolve(self, value: Any) -> None:
        """Deliver ``value`` to the owner, once."""
        if not self.done:
            self.done = True
            self.value = value
            if self.owner is not None:
                self.owner.child_done(self)

    def fail(self, error: BaseException) -> None:
        """Deliver ``error`` to the owner, once."""
        if not self.done:
            self.done = True
            self.error = error
            if self.owner is not None:
                self.owner.child_done(self)

    def cancel(self) -> None:
        """Give the result up: nothing is delivered any more."""
        raise NotImplementedError


class Leaf(Future):
    """A future that a history event resolves.

    Attributes:
        family: activity, timer, event, queue, sub-orchestration or syscall.
        event_id: its schedule event, once there is one.
        task: what was yielded.
        dropped: whether nobody wants the result any more.
    """

    __slots__ = ("dropped", "event_id", "execution", "family", "name", "result_type", "task")

    def __init__(self, execution: LiveExecution, family: str, name: str, task: Any) -> None:
        super().__init__()
        self.execution = execution
        self.family = family
        self.name = name
        self.task = task
        self.event_id: int | None = None
        self.dropped = False
        self.result_type: Any = getattr(task, "result_type", None)

    def resolve_text(self, text: str | None) -> None:
        """Deliver the value of JSON ``text``, built as the requested type."""
        value = loads(text)
        if self.result_type is not None:
            try:
                value = decode_as(value, self.result_type)
            except DuroxideError as exc:
                self.fail(exc)
                return
        self.resolve(value)

    def cancel(self) -> None:
        """See Future."""
        if not self.done and not self.dropped:
            self.dropped = True
            self.owner = None
            self.execution.drop(self)


class Node(Future):
    """A future that other futures resolve.

    Attributes:
        depth: how many nodes are around it.
    """

    __slots__ = ("depth",)

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        self.depth = depth

    def child_done(self, child: Future) -> None:
        """Take note that ``child`` has its result."""
        raise NotImplementedError


class AllNode(Node):
    """Resolves when every member has."""

    __slots__ = ("members", "missing", "task")

    def __init__(self, task: tasks.AllTask, depth: int) -> None:
        super().__init__(depth)
        self.task = task
        self.members: list[Future] = []
        self.missing = 0

    def start(self, execution: LiveExecution) -> None:
        """Begin every member, in order."""
        for index, member in enumerate(self.task.members):
            future = execution.begin(member, self.depth + 1)
            future.index = index
            self.members.append(future)
        self.missing = sum(not member.done for member in self.members)
        for member in self.members:
            member.owner = self
        failed = next((member for member in self.members if member.error is not None), None)
        if self.task.fail_fast and failed is not None:
            self._fail_fast(failed)
        elif not self.missing:
            self._finish()

    def child_done(self, child: Future) -> None:
        """See Node."""
        self.missing -= 1
        if self.task.fail_fast and child.error is not None:
            self._fail_fast(child)
        elif not self.missing:
            self._finish()

    def cancel(self) -> None:
        """See Future."""
        for member in self.members:
            if not member.done:
                member.cancel()

    def _fail_fast(self, child: Future) -> None:
        if not self.done and child.error is not None:
            self.cancel()
            self.fail(child.error)

    def _finish(self) -> None:
        if self.task.fail_fast:
            self.resolve([member.value for member in self.members])
        else:
            self.resolve([self._entry(member) for member in self.members])

    def _entry(self, member: Future) -> Any:
        if member.error is not None:
            return {"err": _parsed(str(member.error))}
        return member.value if self.task.unwrap else {"ok": member.value}


class RaceNode(Node):
    """Resolves with its first member; the others are cancelled."""

    __slots__ = ("members", "task")

    def __init__(self, task: tasks.RaceTask, depth: int) -> None:
        super().__init__(depth)
        self.task = task
        self.members: list[Future] = []

    def start(self, execution: LiveExecution) -> None:
        """Begin every member, in order; if some are done at once, the lowest index wins."""
        for index, member in enumerate(self.task.members):
            future = execution.begin(member, self.depth + 1)
            future.index = index
            self.members.append(future)
        for member in self.members:
            member.owner = self
        winner = next((member for member in self.members if member.done), None)
        if winner is not None:
            self.child_done(winner)

    def child_done(self, child: Future) -> None:
        """See Node."""
        if self.done:
            return
        for member in self.members:
            if member is not child and not member.done:
                member.cancel()
        if child.error is not None:
            self.fail(child.error)
        else:
            self.resolve({"index": child.index, "value": child.value})

    def cancel(self) -> None:
        """See Future."""
        for member in self.members:
            if not member.done:
                member.cancel()


class BlockNode(Node):
    """Drives a generator: the orchestration itself, a block inside all/race, or a retry loop."""

    __slots__ = ("closed", "execution", "generator", "waiting")

    def __init__(self, execution: LiveExecution, generator: Generator[Any, Any, Any], depth: int = 0) -> None:
        super().__init__(depth)
        self.execution = execution
        self.generator = generator
        self.waiting: Future | None = None
        self.closed = False

    def start(self) -> None:
        """Run to the first yield that has to wait."""
        self.advance(None, None)

    def child_done(self, child: Future) -> None:
        """See Node."""
        if child is self.waiting and not self.closed:
            self.waiting = None
            self.advance(child.value, child.error)

    def throw(self, error: BaseException) -> None:
        """Give up what the block waits for and raise ``error`` at its yield."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.cancel()
        self.advance(None, error)

    def advance(self, value: Any, error: BaseException | None) -> None:
        """Resume the generator and go on as long as results are there at once."""
        execution = self.execution
        steps = 0
        while not execution.ended:
            steps += 1
            if steps > limits.MAX_STEPS_WITHOUT_WAITING:
                execution.end_endless()
                return
            try:
                yielded = self.generator.send(value) if error is None else self.generator.throw(error)
            except StopIteration as stop:
                self.resolve(stop.value)
                return
            except KeyboardInterrupt:
                raise
            except BaseException as exc:
                # Whatever users' code raises is the instance's failure; only Ctrl-C is the process's own business.
                self.fail(exc)
                return
            value, error = None, None
            try:
                future = execution.begin(yielded, self.depth + 1)
            except InvalidTask as exc:
                error = exc
                continue
            if self.execution.ended:
                return
            if not future.done:
                self.waiting = future
                future.owner = self
                return
            value, error = future.value, future.error

    def cancel(self) -> None:
        """See Future; the generator is closed with an inert ctx."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.cancel()
        self.close()

    def close(self) -> None:
        """Close the generator; what it calls on ctx meanwhile has no effect (spec 4.7)."""
        if not self.closed:
            self.closed = True
            self.execution.close_generator(self.generator)


def retry_block(task: tasks.RetryTask) -> Generator[Any, Any, Any]:
    """Return the block that a retry task is; it replays like any other."""
    total = task.policy.total_timeout_ms
    return _attempts(task) if total is None else _limited_attempts(task, total)


def _attempts(task: tasks.RetryTask) -> Generator[Any, Any, Any]:
    """Run the attempts of a retry task (spec 9)."""
    policy, activity = task.policy, task.activity
    first: int | None = None
    for attempt in range(1, policy.max_attempts + 1):
        tried = tasks.ActivityTask(
            activity.name,
            activity.input,
            session_id=activity.session_id,
            limits=policy.limits,
            result_type=activity.result_type,
        )
        tried.tag = activity.tag
        tried.info = (attempt, policy.max_attempts, first)
        try:
            return (yield tried)
        except TaskFailed as exc:
            if first is None:
                first = tried.event_id
            if attempt == policy.max_attempts or not policy.retries(exc, raced_by_timer=tried.raced_by_timer):
                raise
            error = exc
        delay_ms = policy.delay_ms(attempt)
        yield RetryNotice(activity.name, error, attempt, policy.max_attempts)
        if delay_ms:
            yield tasks.TimerTask(delay_ms, policy.jitter)


def _limited_attempts(task: tasks.RetryTask, total_timeout_ms: int) -> Generator[Any, Any, Any]:
    """Race the retry loop against one timer over all attempts and waits (W16)."""
    winner = yield tasks.RaceTask([_attempts(task), tasks.TimerTask(total_timeout_ms)])
    if winner["index"] == 0:
        return winner["value"]
    raise TaskTimeout(
        f"timeout: activity {task.activity.name!r} did not succeed within {total_timeout_ms} ms",
        name=task.activity.name,
        error_types=TIMEOUT_TYPES,
    )


class RetryNotice(tasks.Task):
    """A trace from the retry loop, resolved at once."""

    __slots__ = ("attempt", "error", "max_attempts", "name")

    def __init__(self, name: str, error: TaskFailed, attempt: int, max_attempts: int) -> None:
        self.name = name
        self.error = error
        self.attempt = attempt
        self.max_attempts = max_attempts

    def text(self, *, with_error: bool) -> str:
        """Return the line; without the error's text, its class's name."""
        error: object = self.error
        if not with_error:
            error = self.error.error_types[0] if self.error.error_types else type(self.error).__name__
        return f"activity {self.name!r} failed ({error}), attempt {self.attempt} of {self.max_attempts}"


def _parsed(text: str) -> Any:
    # REF re-parses an error text that is JSON of a non-string (spec 4.8).
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value
