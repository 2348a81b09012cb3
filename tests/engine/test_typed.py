"""Spec 16.6 with its BETTER: values built as the types that the caller asks for."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from duroxide_django.engine.codecs import decode_as, dumps, loads
from duroxide_django.exceptions import PayloadError
from tests.engine.harness import begun


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Line:
    article: str
    price: decimal.Decimal
    count: int = 1


@dataclasses.dataclass
class Order:
    number: uuid.UUID
    placed: dt.datetime
    lines: list[Line]
    colour: Colour | None = None


@dataclasses.dataclass
class Picky:
    value: int

    def __post_init__(self):
        raise RuntimeError("never good enough")


@dataclasses.dataclass
class Unresolvable:
    value: "Nowhere"  # noqa: F821, UP037


@attrs.define
class WithAttrs:
    line: Line
    _since: dt.date
    total: int = attrs.field(init=False, default=7)


class WithStruct(msgspec.Struct):
    line: Line
    at: dt.datetime


class WithPydantic(pydantic.BaseModel):
    order_id: uuid.UUID = pydantic.Field(alias="orderId")
    lines: list[Line]


Item = TypeVar("Item")
Amount = NewType("Amount", decimal.Decimal)


@dataclasses.dataclass
class Box(Generic[Item]):
    content: Item
    more: list[Item]


class PydanticBox(pydantic.BaseModel, Generic[Item]):
    content: Item


class Point(NamedTuple):
    x: int
    when: dt.date = dt.date(2026, 1, 1)


class Settings(TypedDict):
    since: dt.date
    until: NotRequired[dt.date]


class Period(enum.Enum):
    SHORT = dt.timedelta(hours=1)


@dataclasses.dataclass
class Cat:
    name: str = ""


@dataclasses.dataclass
class Dog:
    name: str = ""
    barks: bool = True


ORDER = Order(
    uuid.UUID(int=7), dt.datetime(2026, 2, 3, tzinfo=dt.UTC), [Line("tea", decimal.Decimal("1.50"), 2)], Colour.RED
)

ROUND_TRIPS = [
    (ORDER, Order),
    ([ORDER, ORDER], list[Order]),
    ({"a": Line("x", decimal.Decimal(1))}, dict[str, Line]),
    ({1: "a", 2: "b"}, dict[int, str]),
    ({1.5: "a"}, dict[float, str]),
    (None, Order | None),
    (ORDER, Optional[Order]),  # noqa: UP045 - the old spelling works, too
    ((1, "a"), tuple[int, str]),
    ((1, 2, 3), tuple[int, ...]),
    ({1, 2}, set[int]),
    (frozenset({1}), frozenset[int]),
    ((1, 2), tuple),
    ({"a"}, set),
    (dt.date(2026, 1, 2), dt.date),
    (dt.time(1, 2), dt.time),
    (dt.timedelta(days=2), dt.timedelta),
    (decimal.Decimal("0.10"), decimal.Decimal),
    (Colour.RED, Colour),
    ("red", Literal["red", "blue"]),
    (3, Annotated[int, "metadata"]),
    (3, int | str),
    ("three", int | str),
    ({"any": [1]}, Any),
    ({"any": [1]}, dict),
    (WithAttrs(Line("x", decimal.Decimal(1)), dt.date(2026, 1, 2)), WithAttrs),
    (WithStruct(Line("x", decimal.Decimal(1)), dt.datetime(2026, 2, 3, tzinfo=dt.UTC)), WithStruct),
    (WithPydantic(orderId=uuid.UUID(int=1), lines=[Line("x", decimal.Decimal(1))]), WithPydantic),
    ([PydanticBox[dt.date](content=dt.date(2026, 1, 2))], list[PydanticBox[dt.date]]),
    (Box(dt.date(2026, 1, 2), [dt.date(2026, 1, 3)]), Box[dt.date]),
    ({"a": Box(ORDER, [])}, dict[str, Box[Order]]),
    (Point(1, dt.date(2026, 1, 2)), Point),
    ({"since": dt.date(2026, 1, 2)}, Settings),
    ([dt.date(2026, 1, 2)], Sequence[dt.date]),
    ({"a": dt.date(2026, 1, 2)}, Mapping[str, dt.date]),
    ({1}, AbstractSet[int]),
    (Amount(decimal.Decimal("1.5")), Amount),
    (pathlib.PurePosixPath("/a/b"), pathlib.PurePosixPath),
    ({True: 1, False: 0}, dict[bool, int]),
    (Period.SHORT, Period),
    (Dog("rex", barks=False), Cat | Dog),
    (Cat("tom"), Cat | Dog),
]

MISFITS = [
    ("text", Order),
    ({"number": "no uuid", "placed": "2026-01-01", "lines": []}, Order),
    ({"article": "x"}, Line),
    ("x", int),
    (True, int),
    (1, str),
    ("1.5", float),
    (True, float),
    ([1, "x"], list[int]),
    (["x"], dict[str, int]),
    (5, list[int]),
    ({"x": 1}, dict[int, int]),
    ([1], tuple[int, int]),
    (5, tuple[int, int]),
    ("green", Colour),
    ("green", Literal["red"]),
    ("x", decimal.Decimal),
    (5, dt.datetime),
    ("x", dt.timedelta),
    (None, int),
    ([], int | str),
    ({"value": 1}, Picky),
    ({"value": 1}, Unresolvable),
    ({"until": "2026-01-01"}, Settings),
    ([1, "2026-01-01", "more"], Point),
    ("abc", list[str]),
    ({"content": 1}, Box[int]),
    ({"orderId": "no uuid", "lines": []}, WithPydantic),
]


class TestBuilding:
    @pytest.mark.parametrize(("value", "to"), ROUND_TRIPS, ids=[str(to) for _, to in ROUND_TRIPS])
    def test_gives_back_what_was_written(self, value, to):
        """Through JSON and back into the type."""
        assert decode_as(loads(dumps(value)), to) == value

    def test_makes_a_float_of_a_whole_number(self):
        """JSON writes 2.0 as 2 in some languages."""
        built = decode_as(2, float)
        assert (built, type(built)) == (2.0, float)

    def test_uses_the_defaults_of_missing_fields(self):
        """A field that is missing takes its default."""
        assert decode_as({"article": "x", "price": "1"}, Line) == Line("x", decimal.Decimal(1), 1)

    def test_makes_keys_of_the_type_asked_for(self):
        """JSON's keys are texts."""
        assert decode_as({str(uuid.UUID(int=3)): 1}, dict[uuid.UUID, int]) == {uuid.UUID(int=3): 1}

    def test_keeps_the_class_of_what_it_builds(self):
        """A named tuple is not a list, a mapping of an abstract type is a dict."""
        assert type(decode_as([1, "2026-01-02"], Point)) is Point
        assert decode_as([1], Point) == Point(1)
        assert type(decode_as({}, Mapping[str, int])) is dict

    @pytest.mark.parametrize(("value", "to"), MISFITS, ids=[f"{value!r:.20} as {to}" for value, to in MISFITS])
    def test_refuses_what_does_not_fit(self, value, to):
        """One error, whatever the type's own code raised: a PayloadError that names the type."""
        with pytest.raises(PayloadError, match="does not fit the type"):
            decode_as(value, to)


class TestTypedTasks:
    def test_give_the_type_that_was_asked_for(self):
        """Activities, retries, children, events and queue messages."""

        def orchestration(ctx, input):
            made = [
                (yield ctx.schedule_activity_typed("A", None, Line)),
                (yield ctx.schedule_activity_with_retry_typed("B", None, None, Line)),
                (yield ctx.schedule_sub_orchestration_typed("C", None, Line)),
                (yield ctx.wait_for_event_typed("e", Line)),
                (yield ctx.dequeue_event_typed("q", Line)),
            ]
            return [type(value).__name__ for value in made]

        line = {"article": "x", "price": "1"}
        life = begun(orchestration)
        life.turn(life.completed("A", line))
        life.turn(life.completed("B", line))
        life.turn(life.child_completed("C", line), life.raised("e", line), life.queued("q", line))
        assert life.output == ["Line"] * 5

    @pytest.mark.parametrize("to", [int, Picky, Unresolvable, dict[str, int]])
    def test_raise_at_the_yield_when_the_value_does_not_fit(self, to):
        """Never inside the engine, where nobody could catch it."""

        def orchestration(ctx, input):
            try:
                yield ctx.wait_for_event_typed("e", to)
            except PayloadError:
                return "caught"

        life = begun(orchestration)
        life.turn(life.raised("e", ["neither"]))
        assert life.output == "caught"

    def test_take_a_text_as_json_already(self):
        """schedule_activity_typed("A", "[1,2]") gives the activity a list; a plain word goes through as itself."""

        def orchestration(ctx, input):
            yield ctx.all(
                [
                    ctx.schedule_activity_typed("A", "[1,2]"),
                    ctx.schedule_activity_typed("A", "word"),
                    ctx.schedule_activity_typed("A", [1, 2]),
                    ctx.schedule_activity("A", "[1,2]"),
                    ctx.schedule_activity_on_session_typed("A", "[1]", "s"),
                ]
            )

        life = begun(orchestration)
        assert [loads(activity.input) for activity in life.result.activities] == [[1, 2], "word", [1, 2], "[1,2]", [1]]
        assert life.result.activities[4].session_id == "s"

    def test_of_other_orchestrations_do_the_same(self):
        """Children, detached starts and continue-as-new."""

        def orchestration(ctx, input):
            yield ctx.start_orchestration_typed("D", "d-1", "[1]")
            yield ctx.start_orchestration_versioned_typed("D", "2.0.0", "d-2", "[1]")
            yield ctx.race(ctx.utc_now(), ctx.schedule_sub_orchestration_with_id_typed("C", "c-1", "[1]"))
            yield ctx.continue_as_new_typed("[1]")

        life = begun(orchestration)
        assert [new.input for new in life.result.detached] == ["[1]", "[1]"]
        assert life.result.outcome.input == "[1]"
