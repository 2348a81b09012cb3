"""What a function yielded: tasks become futures, and leaves the actions that the history has to match."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from duroxide_django.engine import actions, futures, tasks
from duroxide_django.engine.limits import MAX_NESTING
from duroxide_django.exceptions import InvalidTask

if TYPE_CHECKING:
    from duroxide_django.engine.replay import LiveExecution


def begin(execution: LiveExecution, yielded: Any, depth: int) -> futures.Future:
    """Return the future of what was yielded; leaves emit their action.

    Args:
        yielded: what a generator yielded, or a member of all() or race().
        depth: how many blocks, all() and race() are around it.

    Raises:
        InvalidTask: it is no task.
    """
    starter = _LEAVES.get(type(yielded))
    if starter is not None:
        return starter(execution, yielded)
    if depth > MAX_NESTING and isinstance(yielded, (*_NODES, Generator)):
        return _failed(InvalidTask(f"Blocks, all() and race() may nest {MAX_NESTING} levels deep."))
    if isinstance(yielded, tasks.RetryTask):
        return begin(execution, futures.retry_block(yielded), depth)
    if node := _NODES.get(type(yielded)):
        made = node(yielded, depth)
        made.start(execution)
        return made
    if isinstance(yielded, Generator):
        if inspect.isgenerator(yielded) and inspect.getgeneratorstate(yielded) != inspect.GEN_CREATED:
            return _failed(InvalidTask(f"Block {yielded.__qualname__} runs or ran already; call its function again."))
        block = futures.BlockNode(execution, yielded, depth)
        block.start()
        return block
    raise InvalidTask(
        f"Orchestration {execution.name!r} yielded {yielded!r:.100} of type {type(yielded).__name__}; "
        "yield only tasks made by ctx, all(), race() or generators."
    )


def _begin_activity(execution: LiveExecution, task: tasks.ActivityTask) -> futures.Future:
    leaf = futures.Leaf(execution, futures.ACTIVITY, task.name, task)
    execution.unmatched.append(actions.ScheduleActivity(leaf, task))
    return leaf


def _begin_timer(execution: LiveExecution, task: tasks.TimerTask) -> futures.Future:
    leaf = futures.Leaf(execution, futures.TIMER, "timer", task)
    execution.unmatched.append(actions.CreateTimer(leaf, task))
    return leaf


def _begin_event(execution: LiveExecution, task: tasks.EventTask) -> futures.Future:
    leaf = futures.Leaf(execution, futures.EVENT, task.name, task)
    execution.unmatched.append(actions.SubscribeEvent(leaf, task.name))
    return leaf


def _begin_dequeue(execution: LiveExecution, task: tasks.DequeueTask) -> futures.Future:
    leaf = futures.Leaf(execution, futures.QUEUE, task.queue, task)
    execution.unmatched.append(actions.SubscribeQueue(leaf, task.queue))
    return leaf


def _begin_child(execution: LiveExecution, task: tasks.ChildTask) -> futures.Future:
    leaf = futures.Leaf(execution, futures.CHILD, task.instance_id or task.name, task)
    execution.unmatched.append(actions.ScheduleChild(leaf, task, execution.instance_id, execution.execution_id))
    return leaf


def _begin_syscall(execution: LiveExecution, task: tasks.SyscallTask) -> futures.Future:
    leaf = futures.Leaf(execution, futures.SYSCALL, task.name, task)
    execution.unmatched.append(actions.Syscall(leaf, task))
    return leaf


def _begin_detached(execution: LiveExecution, task: tasks.DetachedTask) -> futures.Future:
    execution.unmatched.append(actions.StartDetached(task))
    return _resolved(None)


def _begin_continue_as_new(execution: LiveExecution, task: tasks.ContinueAsNewTask) -> futures.Future:
    execution.continue_as_new(task)
    return _resolved(None)


def _begin_notice(execution: LiveExecution, task: Any) -> futures.Future:
    execution.trace("warning", task.text(with_error=execution.options.trace_errors))
    return _resolved(None)


def _resolved(value: Any) -> futures.Future:
    future = futures.Future()
    future.done = True
    future.value = value
    return future


def _failed(error: Exception) -> futures.Future:
    future = futures.Future()
    future.done = True
    future.error = error
    return future


_LEAVES: dict[type, Callable[[LiveExecution, Any], futures.Future]] = {
    tasks.ActivityTask: _begin_activity,
    tasks.TimerTask: _begin_timer,
    tasks.EventTask: _begin_event,
    tasks.DequeueTask: _begin_dequeue,
    tasks.ChildTask: _begin_child,
    tasks.SyscallTask: _begin_syscall,
    tasks.DetachedTask: _begin_detached,
    tasks.ContinueAsNewTask: _begin_continue_as_new,
    futures.RetryNotice: _begin_notice,
}

_NODES: dict[type, Callable[[Any, int], futures.AllNode | futures.RaceNode]] = {
    tasks.AllTask: futures.AllNode,
    tasks.RaceTask: futures.RaceNode,
}
