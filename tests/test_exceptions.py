"""The errors as values: they survive pickling and copying, as process pools, caches and error trackers do it."""

from __future__ import annotations

import copy
import pickle

import pytest

from duroxide_django import exceptions
from duroxide_django.exceptions import (
    ActivityFailed,
    ClientError,
    DuroxideError,
    InstanceNotFound,
    NondeterminismError,
    NonRetryable,
    OrchestrationCancelled,
    OrchestrationFailed,
    SubOrchestrationFailed,
    TaskTimeout,
    WaitTimeout,
)


class Declined(NonRetryable):
    """A user's error with arguments of its own."""

    def __init__(self, code: int, *, bank: str) -> None:
        super().__init__(f"declined with {code}")
        self.code = code
        self.bank = bank


class ChildFailed(SubOrchestrationFailed):
    """Any subclass keeps its class."""


EXAMPLES = [
    OrchestrationCancelled("too late"),
    NondeterminismError("no match", event_id=3, expected="a", got="b", source="flow.py:1"),
    ActivityFailed("ValueError: x", name="A", event_id=2, error_types=("ValueError",), traceback_text="t"),
    TaskTimeout(),
    WaitTimeout("Operation timed out: x", instance_id="a-1"),
    WaitTimeout(instance_id="a-1"),
    InstanceNotFound("Instance 'a-1' not found.", instance_id="a-1"),
    OrchestrationFailed("ValueError: x", instance_id="a-1", error_types=("ValueError",), is_cancelled=True),
    Declined(5, bank="b"),
    ChildFailed("x"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"]
)
def test_comes_back_as_it_was(error, again):
    """Class, text, arguments and attributes."""
    restored = again(error)
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert restored.args == error.args
    assert vars(restored) == vars(error)


def test_every_class_is_of_the_one_tree():
    """One base to catch them all, and no text but the class's own when none is given."""
    for found in vars(exceptions).values():
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, DuroxideError)


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (WaitTimeout, TimeoutError),
        (WaitTimeout, RuntimeError),
        (TaskTimeout, TimeoutError),
        (ClientError, RuntimeError),
        (exceptions.ConfigurationError, RuntimeError),
        (exceptions.InvalidTask, TypeError),
        (exceptions.InvalidArgument, ValueError),
        (exceptions.PayloadError, TypeError),
    ],
)
def test_is_also_what_users_of_the_sdk_catch(error, also):
    """Programs written for duroxide catch Python's own classes."""
    assert issubclass(error, also)
