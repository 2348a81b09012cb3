"""Spec part 16: values to JSON text and back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import uuid

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duroxide_django.engine.codecs import dumps, loads
from duroxide_django.engine.outcome import EngineOptions
from duroxide_django.exceptions import PayloadError, PayloadTooLarge
from tests.engine.harness import begun


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


@dataclasses.dataclass
class Line:
    article: str
    price: decimal.Decimal


@dataclasses.dataclass
class Order:
    number: uuid.UUID
    placed: dt.datetime
    lines: list[Line]
    colour: Colour = Colour.RED


@attrs.define
class WithAttrs:
    a: int
    _since: dt.date


class WithStruct(msgspec.Struct):
    b: decimal.Decimal


class WithPydantic(pydantic.BaseModel):
    order_id: uuid.UUID = pydantic.Field(alias="orderId")
    colour: Colour


ORDER = Order(uuid.UUID(int=7), dt.datetime(2026, 2, 3, 4, 5, tzinfo=dt.UTC), [Line("tea", decimal.Decimal("1.50"))])

WRITTEN = [
    (None, "null"),
    (True, "true"),
    ("ünï", '"ünï"'),
    ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
    ((1, [2]), "[1,[2]]"),
    ({1: "x", None: "y"}, '{"1":"x","null":"y"}'),
    (dt.date(2026, 1, 2), '"2026-01-02"'),
    (dt.time(3, 4), '"03:04:00"'),
    (dt.timedelta(minutes=1.5), "90.0"),
    (decimal.Decimal("0.10"), '"0.10"'),
    (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (pathlib.PurePosixPath("/a/b"), '"/a/b"'),
    (Colour.RED, '"red"'),
    (Size.LARGE, "3"),
    ({3, 1, 2}, "[1,2,3]"),
    (frozenset("ba"), '["a","b"]'),
    ({frozenset("ab"), frozenset("ac")}, '[["a","b"],["a","c"]]'),
    (WithAttrs(1, dt.date(2026, 1, 2)), '{"a":1,"_since":"2026-01-02"}'),
    (WithStruct(decimal.Decimal("1.50")), '{"b":"1.50"}'),
    (
        WithPydantic(orderId=uuid.UUID(int=1), colour=Colour.RED),
        '{"orderId":"00000000-0000-0000-0000-000000000001","colour":"red"}',
    ),
    (
        ORDER,
        (
            '{"number":"00000000-0000-0000-0000-000000000007","placed":"2026-02-03T04:05:00+00:00",'
            '"lines":[{"article":"tea","price":"1.50"}],"colour":"red"}'
        ),
    ),
]

CIRCLE: list[object] = [1]
CIRCLE.append({"again": CIRCLE})

DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]

REFUSED = [
    (object(), "$ is of type object"),
    ({"a": [1, {"b": object()}]}, "$.a[1].b is of type object"),
    ({"a": float("nan")}, "$.a is nan, which JSON has no number for"),
    ([float("inf")], "$[0] is inf, which JSON has no number for"),
    ({"a": (1, {object})}, "$.a[1][0] is of type type"),
    ({(1, 2): 3}, "$ has a key of type tuple; keys must be str"),
    ({"a": {b"k": 3}}, "$.a has a key of type bytes; keys must be str"),
    (b"bytes", "$ is of type bytes"),
    ({"a": lambda: None}, "$.a is of type function"),
    (Line("tea", object()), "$.price is of type object"),
    (CIRCLE, "contains itself"),
    (DEEP, "nested too deeply"),
    (10**5000, "digits"),
    ("a\x00b", "the text at $ contains a NUL character"),
    ({"k": ["ok", "\x00"]}, "the text at $.k[1] contains a NUL character"),
    ({"a\x00": 1}, "the text at $ (key) contains a NUL character"),
    ({"k": "\ud800"}, "the text at $.k contains a lone surrogate"),
    ({1: "a", "1": "b"}, "$ has the keys 1 and '1', which are the same in JSON"),
    ({"rows": [{}, {"x": {True: 1, "true": 2}}]}, "$.rows[1].x has the keys True and 'true'"),
    ({None: 1, "null": 2}, "$ has the keys None and 'null'"),
    ({0.5: 1, "0.5": 2}, "$ has the keys 0.5 and '0.5'"),
    (Line({2: 1, "2": 2}, decimal.Decimal(1)), "$.article has the keys 2 and '2'"),
    (Line("\udfff", decimal.Decimal(1)), "the text at $.article contains a lone surrogate"),
]


class TestWriting:
    @pytest.mark.parametrize(("value", "text"), WRITTEN, ids=lambda value: type(value).__name__)
    def test_gives_compact_stable_text(self, value, text):
        """The order of keys is the dict's own, for inputs are compared as text."""
        assert dumps(value) == text

    @pytest.mark.parametrize(("value", "says"), REFUSED, ids=[says for _, says in REFUSED])
    def test_refuses_what_can_not_be_carried_by_its_path(self, value, says):
        """The error is a ValueError and a TypeError, and tells where the offending value is."""
        with pytest.raises(PayloadError) as caught:
            dumps(value, what="activity input")
        assert says in str(caught.value)
        assert str(caught.value).startswith("activity input ")
        assert isinstance(caught.value, (ValueError, TypeError))

    def test_takes_keys_of_other_types_that_differ(self):
        """Only keys that are the same in JSON are refused: one of their values would be lost."""
        assert dumps({1: "a", 2: "b", "x": {None: 1, True: 2}}) == '{"1":"a","2":"b","x":{"null":1,"true":2}}'

    def test_takes_text_that_only_looks_like_a_nul(self):
        """A backslash, a u and four zeros are six harmless characters."""
        assert loads(dumps("\\u0000")) == "\\u0000"

    @pytest.mark.parametrize("size", [10, 11])
    def test_has_a_limit_in_bytes(self, size):
        """UTF-8 bytes of the JSON text, exactly at the limit being fine."""
        text = "ü" * ((size - 2) // 2) + "x" * ((size - 2) % 2)
        if size == 10:
            assert len(dumps(text, max_bytes=10).encode()) == 10
        else:
            with pytest.raises(PayloadTooLarge, match="input is 11 bytes as JSON, the limit is 10 bytes"):
                dumps(text, max_bytes=10, what="input")


class TestReading:
    @pytest.mark.parametrize(
        ("text", "value"), [("null", None), ('"a"', "a"), ("", ""), ("plain", "plain"), ("{", "{"), (None, None)]
    )
    def test_gives_text_that_is_no_json_as_it_is(self, text, value):
        """Spec 16.1."""
        assert loads(text) == value

    @settings(max_examples=200, database=None, derandomize=True)
    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
            lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
            max_leaves=10,
        )
    )
    def test_undoes_writing(self, value):
        """Every JSON value comes back equal, and its text is stable."""
        text = dumps(value)
        assert loads(text) == value
        assert dumps(loads(text)) == text
        assert json.loads(text) == value


class TestInOrchestrations:
    CALLS = {
        "schedule_activity": lambda ctx, value: ctx.schedule_activity("A", value),
        "schedule_activity_with_retry": lambda ctx, value: ctx.schedule_activity_with_retry("A", value),
        "schedule_sub_orchestration": lambda ctx, value: ctx.schedule_sub_orchestration("C", value),
        "start_orchestration": lambda ctx, value: ctx.start_orchestration("C", "c-1", value),
        "continue_as_new": lambda ctx, value: ctx.continue_as_new(value),
        "schedule_activity_typed": lambda ctx, value: ctx.schedule_activity_typed("A", value),
    }

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    @pytest.mark.parametrize("value", [{"a": object()}, float("nan"), {"a": "\x00"}, "x\x00", "\ud800", "x" * 300])
    def test_bad_inputs_are_refused_at_the_call(self, call, value):
        """Where they can be caught, before anything is recorded."""

        def orchestration(ctx, input):
            try:
                call(ctx, value)
            except ValueError:
                return "refused"
            yield

        life = begun(orchestration, options=EngineOptions(max_payload_bytes=200))
        assert life.output == "refused"

    @pytest.mark.parametrize("name", ["", None, 5, "a" * 256, "a\x00", "\ud800", lambda: None])
    def test_bad_names_are_refused_at_the_call(self, name):
        """Activities, children, events and queues alike."""

        def orchestration(ctx, input):
            refused = 0
            for call in (
                ctx.schedule_activity,
                ctx.wait_for_event,
                ctx.dequeue_event,
                ctx.schedule_sub_orchestration,
                lambda bad: ctx.start_orchestration(bad, "id"),
                lambda bad: ctx.schedule_activity_on_session("A", None, bad),
            ):
                try:
                    call(name)
                except ValueError:
                    refused += 1
            return refused
            yield

        assert begun(orchestration).output == 6
