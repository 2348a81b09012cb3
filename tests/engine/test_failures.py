"""Spec 13.8 with W33: what is recorded of an error, and what it becomes at the yield."""

from __future__ import annotations

import json

import pytest

from duroxide_django.engine.failures import (
    MAX_MESSAGE_CHARS,
    MAX_TRACEBACK_CHARS,
    Failure,
    cancelled,
    from_exception,
    poison,
    to_exception,
)
from duroxide_django.exceptions import (
    ActivityFailed,
    CorruptHistory,
    DuroxideError,
    NonRetryable,
    SubOrchestrationFailed,
    TaskFailed,
    TaskTimeout,
)
from tests.engine.harness import begun


def raised(error):
    """Return ``error`` with the traceback of having been raised."""
    try:
        raise error
    except type(error) as exc:
        return exc


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class TestARecordedFailure:
    def test_holds_class_message_bases_and_traceback(self):
        """Everything that advice, retries and the admin need."""
        failure = from_exception(raised(FileNotFoundError("orders.csv")), "ActivityFailed")
        assert failure.message == "FileNotFoundError: orders.csv"
        assert failure.error_types == ("FileNotFoundError", "OSError", "Exception", "BaseException")
        assert "raise error" in failure.traceback
        assert failure.retryable

    def test_comes_back_from_its_text(self):
        """Stored as one JSON object whose only key is the category."""
        failure = from_exception(raised(NonRetryable("stolen")), "ActivityFailed")
        text = failure.to_json()
        assert list(json.loads(text)) == ["Application"]
        assert Failure.from_json(text) == failure
        assert failure.retryable is False

    @pytest.mark.parametrize("failure", [cancelled("by hand"), poison("activity x#3 exceeded 11 attempts (max 10)")])
    def test_of_the_engine_says_what_it_is(self, failure):
        """Cancellation is an application failure, poison is not; both tell their text."""
        assert Failure.from_json(failure.to_json()) == failure
        assert failure.is_application == failure.is_cancelled
        assert failure.message in ("canceled: by hand", "poison: activity x#3 exceeded 11 attempts (max 10)")

    @pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"Application": {}}', '{"A": 1, "B": 2}', "no json"])
    def test_that_is_damaged_is_a_corrupt_history(self, text):
        """Never a crash inside the engine."""
        with pytest.raises(CorruptHistory, match="Not a failure record"):
            Failure.from_json(text)

    @pytest.mark.parametrize("error", [ValueError("a\x00b"), ValueError("\ud800"), Unprintable()])
    def test_can_always_be_stored(self, error):
        """NUL, lone surrogates and errors without a text must not lose the failure."""
        failure = from_exception(raised(error), "ActivityFailed")
        failure.to_json().encode()
        assert "\x00" not in failure.message + failure.traceback
        assert failure.message.startswith(type(error).__name__)

    def test_is_cut_in_the_middle_when_it_is_huge(self):
        """Beginning and end of a long text tell most."""
        failure = from_exception(raised(ValueError("<" + "x" * 1_000_000 + ">")), "ActivityFailed")
        assert len(failure.message) < MAX_MESSAGE_CHARS + 100
        assert len(failure.traceback) < MAX_TRACEBACK_CHARS + 100
        assert failure.message.startswith("ValueError: <x")
        assert failure.message.endswith("x>")
        assert "characters cut" in failure.message


class TestTheExceptionAtTheYield:
    def test_is_an_exception_with_the_original_text(self):
        """What the guide's ``except Exception as e: str(e)`` needs."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_activity("A")
            except Exception as exc:  # noqa: BLE001
                return [str(exc), type(exc).__name__, exc.name, exc.event_id, exc.error_types[0], exc.retryable]

        life = begun(orchestration)
        life.turn(life.failed("A", KeyError("email")))
        assert life.output == ["KeyError: 'email'", "ActivityFailed", "A", 2, "KeyError", True]

    @pytest.mark.parametrize(
        ("failure", "child", "cls"),
        [
            (from_exception(ValueError("x"), "ActivityFailed"), False, ActivityFailed),
            (from_exception(ValueError("x"), "OrchestrationFailed"), True, SubOrchestrationFailed),
            (cancelled("x"), True, SubOrchestrationFailed),
            (Failure(kind="Timeout", message="too late"), False, TaskTimeout),
        ],
    )
    def test_has_a_type_for_each_kind(self, failure, child, cls):
        """All of one tree."""
        error = to_exception(failure, name="A", event_id=2, child=child)
        assert type(error) is cls
        assert isinstance(error, (TaskFailed, DuroxideError))

    def test_tells_a_timeout_by_the_standard_class(self):
        """TaskTimeout is a TimeoutError."""
        error = to_exception(Failure(kind="Timeout", message="t"), name="A", event_id=2, child=False)
        assert isinstance(error, TimeoutError)

    def test_keeps_its_text_and_class_when_it_climbs(self):
        """An activity's error that a child doesn't catch reaches the parent as it was."""
        inner = to_exception(from_exception(raised(KeyError("k")), "ActivityFailed"), name="A", event_id=2, child=False)
        climbed = from_exception(raised(inner), "OrchestrationFailed")
        assert (climbed.message, climbed.error_types[0]) == ("KeyError: 'k'", "KeyError")
        assert "raise error" in climbed.traceback
