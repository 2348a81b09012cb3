"""Spec part 11 with W9, W23: KV entries and custom status."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import replace

import pytest
from django.utils.translation import gettext_lazy

from duroxide_django.engine.limits import MAX_CUSTOM_STATUS_BYTES, MAX_KV_KEYS, MAX_KV_VALUE_BYTES
from duroxide_django.exceptions import LimitExceeded
from tests.engine.harness import T0, begun


def once(act):
    """Return an orchestration that does ``act`` and returns what it gives."""

    def orchestration(ctx, input):
        result = act(ctx)
        yield ctx.utc_now()
        return result

    return orchestration


class Stage(str, enum.Enum):  # noqa: UP042 - a StrEnum prints as its text
    """Its members print as Stage.SENT."""

    SENT = "sent"


class TestReadingAndWriting:
    @pytest.mark.parametrize(
        ("value", "stored"),
        [
            ("plain", "plain"),
            ('"quoted"', '"quoted"'),
            (Stage.SENT, "sent"),
            ({"day": dt.date(2024, 2, 29), "lines": (1, None)}, '{"day":"2024-02-29","lines":[1,null]}'),
            (True, "true"),
            (1.5, "1.5"),
            (gettext_lazy("late"), "late"),
        ],
        ids=repr,
    )
    def test_stores_text_as_it_is_and_other_values_as_json(self, value, stored):
        """What the client's typed getters decode; of KV entries and custom statuses alike."""

        def act(ctx):
            ctx.set_kv_value("key", value)
            ctx.set_custom_status(value)
            return [ctx.get_kv_value("key"), ctx.get_custom_status()]

        assert begun(once(act)).output == [stored, stored]

    def test_refuses_a_value_that_json_can_not_carry(self):
        """At the call: the repr of an object would differ on each replay."""
        for act in (lambda ctx: ctx.set_kv_value("key", object()), lambda ctx: ctx.set_custom_status({"a": object()})):
            failure = begun(once(act)).failure
            assert "is not JSON serializable" in failure.message
            assert failure.message.startswith("PayloadError: ")

    def test_reads_its_own_writes(self):
        """At once, without a yield; a key is made text, a value that isn't one JSON text."""

        def act(ctx):
            ctx.set_kv_value("a", 1)
            ctx.set_kv_value("b", {"x": 1})
            ctx.set_kv_value(3, None)
            ctx.clear_kv_value("a")
            return [ctx.get_kv_value("a"), ctx.get_kv_value("b"), ctx.get_kv_all_values(), ctx.get_kv_length()]

        assert begun(once(act)).output == [None, '{"x":1}', {"b": '{"x":1}', "3": "null"}, 2]

    def test_gives_keys_sorted_and_values_as_a_copy(self):
        """Changing the copy changes nothing."""

        def act(ctx):
            for key in "zab":
                ctx.set_kv_value(key, 1)
            ctx.get_kv_all_values().clear()
            return ctx.get_kv_all_keys()

        assert begun(once(act)).output == ["a", "b", "z"]

    def test_gives_entries_in_one_order_whatever_that_of_the_database_is(self):
        """A loop over the entries schedules the same on every replay (W23)."""

        def orchestration(ctx, input):
            ctx.set_kv_value("m", 1)
            for key in ctx.get_kv_all_values():
                yield ctx.schedule_activity(key)

        life = begun(orchestration, kv={"z": ("1", T0), "a": ("1", T0)})
        assert list(life.kv_base) == ["z", "a"]
        life.kv_base = dict(reversed(life.kv_base.items()))
        life.turn(life.completed("a"))
        life.turn(life.completed("m"))
        life.turn(life.completed("z"))
        assert life.output is None

    def test_tells_empty_from_absent(self):
        """An empty key and an empty value are legal."""

        def act(ctx):
            ctx.set_kv_value("", "")
            return [ctx.get_kv_value(""), ctx.get_kv_value("absent")]

        assert begun(once(act)).output == ["", None]

    def test_records_every_write(self):
        """Also the clearing of an absent key, and of everything."""

        def act(ctx):
            ctx.set_kv_value("a", 1)
            ctx.clear_kv_value("absent")
            ctx.clear_all_kv_values()

        life = begun(once(act))
        assert life.kinds[1:4] == ["KeyValueSet", "KeyValueCleared", "KeyValuesCleared"]
        assert (life.history[1].key, life.history[1].value, life.history[1].last_updated_at_ms) == ("a", "1", T0)

    def test_hands_changes_out_once(self):
        """Each turn commits what it changed: set, or None for removed; never what older turns changed."""

        def orchestration(ctx, input):
            ctx.set_kv_value("a", 1)
            ctx.set_kv_value("b", 1)
            yield ctx.schedule_activity("A")
            ctx.clear_all_kv_values()
            ctx.set_kv_value("b", 2)
            yield ctx.schedule_activity("B")

        life = begun(orchestration, kv={"base": ("0", 5)}, keeps=False)
        assert life.result.kv == {"a": ("1", T0), "b": ("1", T0)}
        life.turn(life.completed("A"))
        assert life.result.kv == {"a": None, "base": None, "b": ("2", T0 + 10)}
        life.turn(life.completed("B"))
        assert life.result.kv == {}

    def test_starts_from_what_older_executions_left(self):
        """The base is visible and may be overwritten."""
        life = begun(once(lambda ctx: ctx.get_kv_all_values()), kv={"old": ("1", 5)})
        assert life.output == {"old": "1"}


class TestPruning:
    def pruned(self, cutoff, keeps=True):
        def orchestration(ctx, input):
            ctx.set_kv_value("b", 1)
            ctx.set_kv_value("a", 1)
            yield ctx.schedule_activity("A")
            ctx.set_kv_value("late", 1)
            removed = ctx.prune_kv_values_updated_before(cutoff)
            yield ctx.schedule_activity("B")
            return [removed, ctx.get_kv_all_keys()]

        life = begun(orchestration, kv={"base": ("0", 5)}, keeps=keeps)
        life.turn(life.completed("A"))
        life.turn(life.completed("B"))
        return life

    @pytest.mark.parametrize(
        ("cutoff", "expected"),
        [
            (0, [0, ["a", "b", "base", "late"]]),
            (5, [0, ["a", "b", "base", "late"]]),
            (6, [1, ["a", "b", "late"]]),
            (T0, [1, ["a", "b", "late"]]),
            (T0 + 1, [3, ["late"]]),
            (T0 + 11, [4, []]),
        ],
    )
    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "replayed"])
    def test_removes_what_was_set_before_the_cutoff(self, cutoff, expected, keeps):
        """W23: recorded times count, strictly before, replayed or not."""
        assert self.pruned(cutoff, keeps).output == expected

    def test_clears_in_sorted_order(self):
        """One event for each key, so that histories of equal programs are equal."""
        life = self.pruned(T0 + 1)
        cleared = [event.key for event in life.history if event.kind == "KeyValueCleared"]
        assert cleared == ["a", "b", "base"]

    @pytest.mark.parametrize("cutoff", [-1, "x", None])
    def test_needs_a_time(self, cutoff):
        """Epoch milliseconds, or ValueError."""
        assert "cutoff_ms must" in begun(once(lambda ctx: ctx.prune_kv_values_updated_before(cutoff))).failure.message


class TestKvLimits:
    def test_hold_exactly(self):
        """A value of the very limit and the last key are fine, in UTF-8 bytes."""

        def act(ctx):
            ctx.set_kv_value("k", "ü" * (MAX_KV_VALUE_BYTES // 2))
            for number in range(MAX_KV_KEYS - 1):
                ctx.set_kv_value(f"k{number}", 1)
            ctx.set_kv_value("k5", "overwriting adds no key")
            return ctx.get_kv_length()

        assert begun(once(act)).output == MAX_KV_KEYS

    def test_are_raised_at_the_call(self):
        """W9: the code can react, and nothing has changed; the text names key, size and limit."""

        def act(ctx):
            said = []
            for number in range(MAX_KV_KEYS):
                ctx.set_kv_value(f"k{number:03}", 1)
            for key, value in (("one more", 1), ("k000", "x" * (MAX_KV_VALUE_BYTES + 1))):
                try:
                    ctx.set_kv_value(key, value)
                except LimitExceeded as exc:
                    said.append(str(exc))
            ctx.clear_kv_value("k001")
            ctx.set_kv_value("one more", 1)
            return [*said, ctx.get_kv_value("k000"), ctx.get_kv_length()]

        many, large, value, length = begun(once(act)).output
        assert many == "KV key 'one more' would be number 151, the limit is 150."
        assert large == "The value of KV key 'k000' is 65537 bytes, the limit is 65536 bytes."
        assert (value, length) == ("1", MAX_KV_KEYS)

    def test_count_keys_of_older_turns_and_executions(self):
        """W9c: 150 in all, not in one turn."""
        base = {f"k{number}": ("1", 5) for number in range(MAX_KV_KEYS)}
        life = begun(once(lambda ctx: ctx.set_kv_value("more", 1)), kv=base)
        assert life.failure.error_types[0] == "LimitExceeded"

    @pytest.mark.parametrize(
        ("key", "value"), [("a\x00", 1), ("k", "a\x00"), ("k", "\ud800"), ("\udfff", 1), ("k" * 256, 1)]
    )
    def test_refuse_what_a_database_can_not_store(self, key, value):
        """NUL, lone surrogates and over-long keys."""
        life = begun(once(lambda ctx: ctx.set_kv_value(key, value)))
        assert life.failure.error_types[0] == "InvalidArgument"
        assert life.kv == {}


class TestTheCustomStatus:
    def test_is_committed_with_the_turn(self):
        """The last call of the turn wins; one change, however many calls."""

        def orchestration(ctx, input):
            ctx.set_custom_status("one")
            ctx.set_custom_status("two")
            yield ctx.schedule_activity("A")

        life = begun(orchestration)
        assert (life.result.status_changed, life.result.custom_status) == (True, "two")
        assert life.kinds.count("CustomStatusUpdated") == 2
        life.turn(life.completed("A"))
        assert life.result.status_changed is False

    def test_is_made_text(self):
        """A text stays as it is; any other value becomes JSON."""
        assert begun(once(lambda ctx: ctx.set_custom_status({"a": 1}))).custom_status == '{"a":1}'
        assert begun(once(lambda ctx: ctx.set_custom_status('{"a": 1}'))).custom_status == '{"a": 1}'

    def test_can_be_read_and_reset(self):
        """get gives the last value set; reset is a change too."""

        def act(ctx):
            seen = [ctx.get_custom_status()]
            ctx.set_custom_status("")
            seen.append(ctx.get_custom_status())
            ctx.reset_custom_status()
            return [*seen, ctx.get_custom_status()]

        life = begun(once(act))
        assert life.output == [None, "", None]
        assert (life.results[0].status_changed, life.results[0].custom_status) == (True, None)

    def test_is_not_changed_by_a_replay(self):
        """Only the turn that sets it counts, or the version would run away."""

        def orchestration(ctx, input):
            ctx.set_custom_status("once")
            yield ctx.schedule_activity("A")
            yield ctx.schedule_activity("B")

        life = begun(orchestration, keeps=False)
        life.turn(life.completed("A"))
        assert (life.result.status_changed, life.result.custom_status) == (False, "once")

    def test_has_a_limit_that_is_raised_at_the_call(self):
        """262,144 bytes of UTF-8; what exceeds it is not stored (W9b)."""

        def act(ctx):
            ctx.set_custom_status("ü" * (MAX_CUSTOM_STATUS_BYTES // 2))
            try:
                ctx.set_custom_status("x" * (MAX_CUSTOM_STATUS_BYTES + 1))
            except LimitExceeded as exc:
                return str(exc)

        life = begun(once(act))
        assert life.output == "custom status is 262145 bytes, the limit is 262144 bytes."
        assert len(life.custom_status) == MAX_CUSTOM_STATUS_BYTES // 2

    @pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
    def test_must_be_storable(self, text):
        """NUL and lone surrogates are refused."""
        assert begun(once(lambda ctx: ctx.set_custom_status(text))).failure.error_types[0] == "InvalidArgument"


class TestAHistoryOfAnEngineThatStoredReprs:
    """Engine 2 stored ``str()`` of KV values and custom statuses, and merged keys that are the same in JSON."""

    def test_replays_and_goes_on_by_the_old_rules(self):
        def orchestration(ctx, input):
            for number in (1, 2):
                ctx.set_kv_value("key", {"n": number})
                ctx.set_custom_status({"n": number})
                yield ctx.schedule_activity_typed("A", str(number), str)
                yield ctx.schedule_activity("B", {1: "a", "1": "b"})

        life = begun(orchestration, keeps=False, checks=False)
        old = {"key": "{'n': 1}"}
        life.history = [
            replace(event, **change)
            for event, change in zip(
                life.history,
                ({"engine": 2}, {"value": old["key"]}, {"status": old["key"]}, {"input": "1"}),
                strict=True,
            )
        ]
        life.turn(life.completed("A", "done"))
        assert life.result.activities[0].input == '{"1":"a","1":"b"}'
        life.turn(life.completed("B"))
        assert life.kv["key"][0] == "{'n': 2}"
        assert life.result.custom_status == "{'n': 2}"
        assert life.result.activities[0].input == "2"
