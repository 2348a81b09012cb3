"""The random world around a random program: what completes, arrives or is cancelled next."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from random import Random

from duroxide_django.engine import events, messages
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.messages import Message
from duroxide_django.engine.outcome import ContinuedAsNew
from duroxide_django.exceptions import NonRetryable
from tests.engine import invariants
from tests.engine.harness import Life

MAX_TURNS = 25
#: Messages of one turn, and how often a turn has so many.
BATCHES = {0: 5, 1: 50, 2: 25, 3: 15, 6: 5}
#: How often each thing happens.
HAPPENINGS = {
    "completes": 40,
    "fails": 8,
    "fires": 25,
    "child completes": 10,
    "child fails": 4,
    "event": 14,
    "mail": 14,
    "stray": 6,
    "repetition": 6,
    "cancel": 2,
    "force": 1,
    "poison": 1,
}


class World:
    """Feeds the same messages to several lives of one program and demands that they commit the same."""

    def __init__(self, lives: list[Life], random: Random) -> None:
        self.lives = lives
        self.first = lives[0]
        self.random = random
        self.sent: list[Message] = []
        self.delivered: list[tuple[str, str]] = []

    def play(self) -> None:
        """Run turns until the instance ends, or long enough."""
        for _ in self.turns():
            pass

    def turns(self) -> Iterator[None]:
        """Run turns as ``play`` does; yields after each."""
        batch: list[Message] = []
        self._each(lambda life: life.start(*batch))
        for _ in range(MAX_TURNS):
            yield
            outcome = self.first.result.outcome
            batch = self._batch()
            if outcome is None:
                self._each(lambda life: life.turn(*batch, after_ms=0))  # noqa: B023 - called at once
            elif isinstance(outcome, ContinuedAsNew):
                self._each(lambda life: life.renew(*batch))  # noqa: B023 - called at once
            else:
                return

    def _each(self, run) -> None:
        now_ms = self.first.now_ms
        results = []
        for life in self.lives:
            life.now_ms = now_ms
            results.append(bare(run(life)))
        for result in results[1:]:
            assert result == results[0]
        invariants.check(self.first)
        self._check_mail()

    def _check_mail(self) -> None:
        """See that every queue message was delivered or waits, each once and in order."""
        self.delivered += [
            (event.name, event.data)
            for event in self.first.result.events
            if isinstance(event, events.QueueEventDelivered)
        ]
        waiting = [(mail.queue, mail.data) for _, mail in sorted(self.first.mail.items())]
        sent = [(message.name, message.payload) for message in self.sent if message.kind == messages.QUEUE_MESSAGE]
        for queue in "xy":
            assert of_queue(sent, queue) == of_queue(self.delivered, queue) + of_queue(waiting, queue)

    def _batch(self) -> list[Message]:
        self.first.now_ms += self.random.choice([0, 0, 1, 30])
        batch: list[Message] = []
        (size,) = self.random.choices(list(BATCHES), BATCHES.values())
        for what in self.random.choices(list(HAPPENINGS), HAPPENINGS.values(), k=size):
            message = self._message(what)
            if message is not None:
                batch.append(message)
                self.sent.append(message)
        return batch

    def _message(self, what: str) -> Message | None:
        life, number = self.first, self.random.randrange(1000)
        source = self._pick(_SOURCES.get(what))
        if what in _SOURCES and source is None:
            return None
        if what == "repetition":
            completions = [message for message in self.sent if message.kind in messages.COMPLETIONS]
            return self.random.choice(completions) if completions else None
        make = {
            "completes": lambda: life.completed(source, number),
            "fails": lambda: life.failed(source, self.random.choice([ValueError("no"), NonRetryable("never")])),
            "fires": lambda: life.fired(source),
            "child completes": lambda: life.child_completed(source, number),
            "child fails": lambda: life.child_failed(source),
            "event": lambda: life.raised(self.random.choice("xy"), number),
            "mail": lambda: life.queued(self.random.choice("xy"), number),
            "stray": self._stray,
            "cancel": lambda: life.cancel(f"reason {number}"),
            "force": lambda: life.cancel(f"reason {number}", force=True),
            "poison": lambda: life.poisoned(source),
        }
        return make[what]()

    def _pick(self, table: str | None) -> int | None:
        entries = sorted(getattr(self.first, table)) if table else []
        return self.random.choice(entries) if entries else None

    def _stray(self) -> Message:
        """Return a completion that most likely fits nothing."""
        return Message(
            kind=self.random.choice(sorted(messages.COMPLETIONS - {messages.ACTIVITY_FAILED, messages.SUB_FAILED})),
            execution_id=self.random.choice([self.first.execution_id, 1]),
            event_id=self.random.randrange(20),
            payload="0",
        )


_SOURCES = {
    "completes": "activities",
    "fails": "activities",
    "poison": "activities",
    "fires": "timers",
    "child completes": "children",
    "child fails": "children",
}


def of_queue(letters, queue):
    """Return what is of ``queue``."""
    return [data for name, data in letters if name == queue]


def bare(result):
    """Return a turn's result without tracebacks, which tell how the function was resumed."""
    failure = getattr(result.outcome, "failure", None)
    outcome = result.outcome if failure is None else _without_traceback(failure)
    recorded = [_with_bare_details(event) for event in result.events]
    return dataclasses.replace(result, events=recorded, outcome=outcome)


def _with_bare_details(event):
    if not hasattr(event, "details"):
        return event
    return dataclasses.replace(event, details=_without_traceback(Failure.from_json(event.details)).to_json())


def _without_traceback(failure: Failure) -> Failure:
    return dataclasses.replace(failure, traceback=None)
