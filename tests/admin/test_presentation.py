"""View data: pure functions from rows to what people read."""

from __future__ import annotations

import json

import pytest

from duroxide_django.presentation import payloads, pending, timeline
from duroxide_django.presentation.texts import DAY_MS, HOUR_MS, MINUTE_MS, duration
from duroxide_django.storage.instance_pages import StepEvent

SECRET = "hush"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1_500, "1.5 s"),
        (40_000, "40 s"),
        (MINUTE_MS, "1 min"),
        (MINUTE_MS + 5_000, "1 min 5 s"),
        (3 * HOUR_MS, "3 h"),
        (3 * HOUR_MS + 5 * MINUTE_MS, "3 h 5 min"),
        (DAY_MS + HOUR_MS, "1 day 1 h"),
        (40 * DAY_MS, "40 days"),
    ],
)
def test_durations_have_two_units(ms, text):
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("events", "names"),
    [
        ([], []),
        ([("ExternalSubscribed", None, "a")], ["a"]),
        ([("ExternalSubscribed", None, "a"), ("ExternalEvent", None, "a")], []),
        ([("ExternalSubscribed", None, "a"), ("ExternalEvent", None, "b")], ["a"]),
        ([("ExternalEvent", None, "a"), ("ExternalSubscribed", None, "a")], []),
        ([("ExternalEvent", None, "a"), *2 * [("ExternalSubscribed", None, "a")]], ["a"]),
        ([("ExternalSubscribed", None, "a"), ("ExternalSubscribedCancelled", 1, None)], []),
        (
            [
                ("ExternalSubscribed", None, "a"),
                ("ExternalSubscribed", None, "a"),
                ("ExternalSubscribedCancelled", 1, None),
                ("ExternalEvent", None, "a"),
            ],
            [],
        ),
        ([("QueueSubscribed", None, "q"), ("QueueEventDelivered", 1, "q"), ("QueueSubscribed", None, "r")], ["r"]),
        ([("QueueSubscribed", None, "q"), ("QueueSubscriptionCancelled", 1, None)], []),
    ],
)
def test_open_waits(events, names):
    numbered = [(number, kind, source, 0, name) for number, (kind, source, name) in enumerate(events, 1)]
    assert [wait.name for wait in pending.open_waits(numbered, buffers=True)] == names


def test_an_event_that_nobody_waits_for_is_lost_if_events_are_not_kept():
    events = [(1, "ExternalEvent", None, 0, "a"), (2, "ExternalSubscribed", None, 0, "a")]
    assert [wait.name for wait in pending.open_waits(events, buffers=False)] == ["a"]


@pytest.mark.parametrize(
    "value",
    [
        {"token": SECRET},
        [{"deep": [{"token": {"very": SECRET}}]}],
        {"text": json.dumps({"token": SECRET})},
        json.dumps({"token": SECRET}),
        {"text": json.dumps(json.dumps([{"token": SECRET}]))},
        {"key": "token", "value": SECRET},
        {"Token": SECRET, "TOKEN": SECRET, "@token": SECRET},
        {"key": "@Token", "value": SECRET},
        {"text": f'{{"number": {"9" * 5_000}, "token": "{SECRET}"}}'},
        {"text": "[" * 950 + f'{{"token": "{SECRET}"}}' + "]" * 950},
        {"text": "[" * 20_000 + f'{{"token": "{SECRET}"}}'},
        {"text": f'{{"cut": 1, "token": "{SECRET}'},
        {"text": f'\ufeff{{"token": "{SECRET}"}}'},
        {"text": f'got {{"token": "{SECRET}"}} from them'},
        {"text": f"token={SECRET}"},
        {"text": f"{{'token': '{SECRET}'}}"},
    ],
)
def test_masked_keys_are_hidden_wherever_they_are(value):
    assert SECRET not in json.dumps(payloads.mask(value, {"token"}))
    assert payloads.mask(value, ()) is value


@pytest.mark.parametrize("names", [["token"], ["Token"], ["@token"], ["@TOKEN"]])
def test_masked_keys_are_compared_without_case_and_at(names):
    for key in ("token", "TOKEN", "@token", "@Token"):
        assert SECRET not in payloads.pretty(json.dumps({key: SECRET}), names)
        assert payloads.is_masked(key, names)
    assert not payloads.is_masked("tokens", names)


@pytest.mark.parametrize("levels", [90, 110, 930, 990, 5_000, 100_000])
@pytest.mark.parametrize("event", [False, True])
def test_masked_keys_are_hidden_at_any_depth(levels, event):
    text = "[" * levels + f'{{"token": "{SECRET}"}}' + "]" * levels
    data = json.dumps({"input": text}) if event else text
    assert SECRET not in payloads.pretty(data, {"token"}, event=event)
    assert SECRET in payloads.pretty(data, (), event=event)


def test_what_can_not_be_read_is_withheld_if_keys_are_masked():
    for text in (f'{{"token": "{SECRET}", "number": {"9" * 5_000}}}', f'{{"token": "{SECRET}"', f'["{SECRET}'):
        assert payloads.pretty(text, {"token"}) == json.dumps(payloads.MASK, ensure_ascii=False)
        assert payloads.mask_text(text, {"token"}) == payloads.MASK
        assert payloads.mask_text(text, ()) == text


def test_masking_leaves_the_rest_as_it_is():
    value = {"a": [1, "x", None, '{"b": 1}', "no json", "3/7: a token", "tokens: 3"], "key": [], "value": 1}
    assert payloads.mask(value, {"token"}) == value


def test_a_cut_payload_is_withheld_if_keys_are_masked():
    assert payloads.preview('{"tok', 900, {"token"}).is_withheld
    assert payloads.preview('{"tok', 900, ()).text == '{"tok'


def event(event_id, kind, at_ms, source=None, **fields):
    empty = dict.fromkeys(StepEvent.__dataclass_fields__)
    known = {"event_id": event_id, "kind": kind, "timestamp_ms": at_ms, "source_event_id": source}
    return StepEvent(**{**empty, **known, **fields})


def test_attempts_are_one_row_and_idle_stretches_are_squeezed():
    hour = 3_600_000
    history = [
        event(1, "OrchestrationStarted", 0),
        event(2, "ActivityScheduled", 0, name="Charge", attempt=1, max_attempts=3),
        event(3, "ActivityFailed", 1_000, 2, details='{"Application":{"message":"no \\"luck\\""}}'),
        event(4, "TimerCreated", 1_000, fire_at_ms=hour),
        event(5, "TimerFired", hour, 4),
        event(6, "ActivityScheduled", hour, name="Charge", attempt=2, max_attempts=3, retry_of=2),
        event(7, "ActivityCompleted", hour + 1_000, 6),
        event(8, "ExternalSubscribed", hour + 1_000, name="ok"),
    ]
    drawn = timeline.timeline(history, hour + 2_000, is_open=True, show_errors=True)
    charge, wait = drawn.rows
    assert (charge.attempts, [bar.outcome for bar in charge.bars]) == (2, ["failed", "pause", "done"])
    assert charge.bars[0].error == 'no "luck"'
    assert (wait.outcome, wait.bars[0].end_ms) == ("pending", None)
    ((_, width, label),) = drawn.gaps
    assert label == "59 min 59 s"
    assert float(width[:-1]) < 80
    places = [float(bar.x[:-1]) for row in drawn.rows for bar in row.bars]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)


@pytest.mark.parametrize(("buffers", "outcomes"), [(True, ["done", "pending"]), (False, ["pending", "pending"])])
def test_an_event_that_came_early_ends_the_next_wait_if_events_are_kept(buffers, outcomes):
    history = [
        event(1, "OrchestrationStarted", 0),
        event(2, "ExternalEvent", 1, name="ok"),
        event(3, "ExternalSubscribed", 2, name="ok"),
        event(4, "ExternalSubscribed", 3, name="ok"),
    ]
    drawn = timeline.timeline(history, 9, is_open=True, show_errors=True, buffers=buffers)
    assert [row.outcome for row in drawn.rows if row.bars] == outcomes


def test_errors_are_left_out_of_the_timeline_for_who_may_not_see_payloads():
    history = [
        event(1, "ActivityScheduled", 0, name="Charge"),
        event(2, "ActivityFailed", 5, 1, details='{"Application":{"message":"secret"}}'),
    ]
    (row,) = timeline.timeline(history, 10, is_open=False, show_errors=False).rows
    assert "secret" not in row.bars[0].title


def test_a_history_of_one_moment_can_be_drawn():
    drawn = timeline.timeline([event(1, "TimerCreated", 7)], 7, is_open=True, show_errors=True)
    assert drawn.rows[0].bars[0].x == "0.00%"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"Application":{"kind":"x","message":"a \\"b\\" <c>","types":[]}}', 'a "b" <c>'),
        ('{"Application":{"kind":"x","message":"cut off he', "cut off he"),
        ('{"Application":{"message":"ends in an escape \\', "ends in an escape "),
        (None, ""),
        ("no failure", ""),
    ],
)
def test_failure_messages_are_read_from_the_beginning_of_a_record(text, message):
    assert payloads.failure_message(text) == message
