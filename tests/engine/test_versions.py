"""Spec part 12: versions, and the registry that chooses among them."""

from __future__ import annotations

import functools
import random

import pytest

from duroxide_django.engine.registry import Registry
from duroxide_django.engine.versions import Version
from duroxide_django.exceptions import InvalidArgument

#: From semver.org, item 11, and then some: in ascending order.
ASCENDING = [
    "0.0.1",
    "0.9.0",
    "1.0.0-0",
    "1.0.0-2",
    "1.0.0-11",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.9.0",
    "1.10.0",
    "2.0.0",
    "10.0.0",
]


def made(version):
    """Return an orchestration of its own for each version."""
    return functools.partial(lambda ctx, input, which: which, which=version)


class TestVersions:
    def test_are_ordered_by_semver(self):
        """1.10.0 is later than 1.9.0, a pre-release earlier than its release."""
        mixed = [Version.parse(text) for text in ASCENDING]
        random.Random(7).shuffle(mixed)
        assert [version.text for version in sorted(mixed)] == ASCENDING

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "v1.0.0",
            "1.0.x",
            "01.0.0",
            "1.0.0-",
            " 1.0.0",
            "1.0.0\n",
            "1.0.0" + "0" * 99,
            "1.0.0-01",
            "1.0.0-a..b",
            "1.0.0+",
            "1.0.0+a..b",
            "1\u0661.0.0",
        ],
    )
    def test_must_be_semantic_versions(self, text):
        """Bad text is refused where it is given (W24)."""
        with pytest.raises(InvalidArgument, match="semantic version"):
            Version.parse(text)

    @pytest.mark.parametrize("value", [None, 1, 1.0, (1, 0, 0)])
    def test_must_be_text(self, value):
        """Also what is no text at all."""
        with pytest.raises(InvalidArgument):
            Version.parse(value)

    def test_may_carry_build_metadata(self):
        """It is kept in the text, and decides only between versions that are equal otherwise."""
        assert Version.parse("1.0.0+build.5").text == "1.0.0+build.5"
        assert Version.parse("1.0.0+z") < Version.parse("1.0.1+a")
        assert Version.parse("1.0.0+a") < Version.parse("1.0.0+b")


def known_function(ctx, input):
    """An orchestration of a module, so that its error can name it."""
    return input


class TestOrchestrationsInTheRegistry:
    @pytest.mark.parametrize("order", [["1.9.0", "1.10.0", "1.0.0"], ["1.10.0", "1.0.0", "1.9.0"]])
    def test_are_registered_in_any_order(self, order):
        """W24: the latest wins, whenever it was registered."""
        registry = Registry()
        functions = {version: made(version) for version in order}
        for version in order:
            registry.add_orchestration("W", functions[version], version)
        assert registry.resolve("W", None) == ("1.10.0", functions["1.10.0"])
        assert registry.resolve("W", "1.9.0") == ("1.9.0", functions["1.9.0"])

    def test_without_a_version_are_one_zero_zero(self):
        """The first version has a name too."""
        registry = Registry()
        registry.add_orchestration("W", made("first"))
        assert registry.resolve("W", None)[0] == "1.0.0"

    @pytest.mark.parametrize(
        ("name", "version", "says"),
        [
            ("X", None, "no orchestration 'X' is registered"),
            ("W", "3.0.0", "orchestration 'W' has no version 3.0.0 (registered: 1.0.0, 2.0.0)"),
            ("W", "nonsense", "orchestration 'W' has no version nonsense (registered: 1.0.0, 2.0.0)"),
        ],
    )
    def test_that_are_missing_are_explained(self, name, version, says):
        """What was asked for, and what there is instead."""
        registry = Registry()
        registry.add_orchestration("W", made("2"), "2.0.0")
        registry.add_orchestration("W", made("1"), "1.0.0")
        assert registry.resolve(name, version) is None
        assert registry.describe_missing(name, version) == says

    def test_can_not_be_registered_twice(self):
        """Two functions under one name and version: an error that names the first."""
        registry = Registry()
        registry.add_orchestration("W", known_function)
        registry.add_orchestration("W", known_function)
        with pytest.raises(InvalidArgument, match=r"registered already, as .*known_function"):
            registry.add_orchestration("W", made("other"))

    @pytest.mark.parametrize(
        ("name", "function"),
        [("", made("1")), (None, made("1")), ("x" * 256, made("1")), ("a\x00", made("1")), ("W", None), ("W", "text")],
    )
    def test_need_a_name_and_a_function(self, name, function):
        """Refused at registration."""
        with pytest.raises(InvalidArgument):
            Registry().add_orchestration(name, function)

    def test_take_two_arguments(self):
        """A function that couldn't be called is refused when it is registered, not in its first turn."""
        for function in (lambda: None, lambda ctx: None, lambda ctx, input, *, more: None):
            with pytest.raises(InvalidArgument, match=r"must take \(ctx, input\)"):
                Registry().add_orchestration("W", function)
            with pytest.raises(InvalidArgument, match=r"must take \(ctx, input\)"):
                Registry().add_activity("A", function)
        for function in (lambda ctx, input, more=1: None, lambda *arguments: None, dict.get):
            Registry().add_orchestration("W", function)

    def test_are_never_async(self):
        """Neither a coroutine function nor an async generator."""

        async def coroutine(ctx, input):
            return None

        async def generator(ctx, input):
            yield

        for function in (coroutine, generator):
            with pytest.raises(InvalidArgument, match="is async"):
                Registry().add_orchestration("W", function)


class TestActivitiesInTheRegistry:
    def test_have_one_function_each(self):
        """No versions; the same name twice is an error."""
        registry = Registry()
        registry.add_activity("A", made("1"))
        with pytest.raises(InvalidArgument, match="registered already"):
            registry.add_activity("A", made("2"))

    def test_may_be_async_but_not_atomic_then(self):
        """Django's transactions are not async."""

        async def activity(ctx, input):
            return None

        registry = Registry()
        registry.add_activity("A", activity)
        assert registry.activities["A"].is_async
        with pytest.raises(InvalidArgument, match="can't be atomic"):
            registry.add_activity("B", activity, atomic=True)

    def test_are_no_generators(self):
        """A yield in an activity is a mistake that would otherwise pass silently."""

        def activity(ctx, input):
            yield

        with pytest.raises(InvalidArgument, match="only orchestrations yield"):
            Registry().add_activity("A", activity)

    def test_are_functions(self):
        """Anything else is refused."""
        with pytest.raises(InvalidArgument, match="must be a function, got str"):
            Registry().add_activity("A", "text")

    def test_may_not_use_reserved_names(self):
        """They belong to the engine."""
        with pytest.raises(InvalidArgument, match="reserved"):
            Registry().add_activity("__duroxide_syscall:now", made("1"))


def test_versions_have_a_function():
    """The module-level function that the tests above register twice; reloading a module does that."""
