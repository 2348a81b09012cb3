"""The reference names everything there is, with the right defaults; links and test names in it lead somewhere."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from pathlib import Path

import pytest

import duroxide_django
from tests.docs.markdown import DOCS, PAGES, ROOT, anchors, links, name_of

REFERENCE = DOCS / "reference"


def code_words(*pages: Path) -> set[str]:
    """Return the identifiers that stand in inline code or in fenced blocks."""
    words: set[str] = set()
    for page in pages:
        for code in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), flags=re.DOTALL):
            words.update(re.findall(r"[\w.]+", code))
            words.update(re.findall(r"\w+", code))
    return words


@pytest.fixture(scope="module")
def everything() -> set[str]:
    return code_words(*REFERENCE.glob("*.md"))


def public_members(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


class TestReferenceNames:
    def test_every_public_name(self, everything: set[str]) -> None:
        assert set(duroxide_django.__all__) - {"__version__"} <= everything

    def test_every_exception(self) -> None:
        from duroxide_django import exceptions, testing

        classes = [*vars(exceptions).values(), testing.DrainLimit]
        names = {cls.__name__ for cls in classes if isinstance(cls, type) and issubclass(cls, Exception)}
        assert names <= code_words(REFERENCE / "exceptions.md")

    def test_every_method_of_the_client(self) -> None:
        words = code_words(REFERENCE / "client.md")
        # Twins are described by one rule; a few are named as examples.
        twins = {f"a{name}" for name in public_members(duroxide_django.Client)}
        assert set(public_members(duroxide_django.Client)) - twins - {"db"} <= words

    def test_every_method_of_the_orchestration_context(self) -> None:
        members = set(public_members(duroxide_django.OrchestrationContext))
        assert members <= code_words(REFERENCE / "orchestration-context.md")

    def test_everything_an_activity_knows(self) -> None:
        attributes = re.findall(
            r"self\.([a-z]\w*)(?=[:\s])", inspect.getsource(duroxide_django.ActivityContext.__init__)
        )
        called_by_the_runtime = {"begin", "cancel", "end", "log_fields", "take_progress"}
        members = {*public_members(duroxide_django.ActivityContext), *attributes} - called_by_the_runtime
        assert members <= code_words(REFERENCE / "activities.md")

    def test_every_member_of_the_runtime_and_its_options(self) -> None:
        from duroxide_django import MetricsSnapshot, PostgresProvider, Runtime, RuntimeOptions, SqliteProvider

        words = code_words(REFERENCE / "runtime.md")
        assert set(public_members(Runtime)) <= words
        assert set(RuntimeOptions.__dataclass_fields__) <= words
        assert set(MetricsSnapshot.__dataclass_fields__) <= words
        assert {*public_members(SqliteProvider), *public_members(PostgresProvider)} <= words

    def test_every_field_of_the_results(self) -> None:
        from duroxide_django import results

        words = code_words(REFERENCE / "results.md")
        for cls in vars(results).values():
            if isinstance(cls, type) and hasattr(cls, "__dataclass_fields__"):
                assert {cls.__name__, *cls.__dataclass_fields__} <= words, cls

    def test_the_whole_testing_kit(self) -> None:
        from duroxide_django import testing

        assert set(testing.__all__) <= code_words(REFERENCE / "testing.md", REFERENCE / "exceptions.md")

    def test_every_key_of_a_retry_policy(self) -> None:
        fields = set(duroxide_django.RetryPolicy.__dataclass_fields__)
        assert fields <= code_words(DOCS / "howto" / "retries-and-timeouts.md")

    def test_every_kind_of_event(self) -> None:
        from duroxide_django.engine.events import KINDS

        assert set(KINDS) <= code_words(REFERENCE / "history.md")

    def test_every_rule_of_the_doctor_and_every_reason_to_be_blocked(self) -> None:
        from duroxide_django.storage import health, invariant

        words = code_words(DOCS / "howto" / "stuck-instances.md")
        rules = re.findall(
            r'rule=(?:"(\w+)" if .+ else )?"(\w+)"', inspect.getsource(health) + inspect.getsource(invariant)
        )
        assert {name for pair in rules for name in pair if name} | set(health._BLOCKED_CURES) <= words

    def test_every_permission_of_a_verb(self) -> None:
        from duroxide_django.models import Instance

        codenames = {codename for codename, _ in Instance._meta.permissions}
        assert {*codenames, "delete_instance"} <= code_words(ROOT / "SECURITY.md")

    def test_every_table_and_column(self) -> None:
        from django.apps import apps

        text = (REFERENCE / "schema.md").read_text()
        for model in apps.get_app_config("duroxide_django").get_models():
            section = text.partition(f"## {model._meta.db_table} (`{model.__name__}`)")[2].partition("\n## ")[0]
            columns = {field.column for field in model._meta.local_concrete_fields if field.column}
            assert columns <= set(re.findall(r"\w+", section)), model

    def test_every_option_of_every_command(self) -> None:
        from django.core.management import load_command_class
        from django.core.management.base import BaseCommand

        text = (REFERENCE / "commands.md").read_text()
        known = options_of(BaseCommand().create_parser("manage.py", "any"))
        for file in (ROOT / "duroxide_django" / "management" / "commands").glob("[a-z]*.py"):
            section = text.partition(f"## `{file.stem}`")[2].partition("\n## `")[0]
            parser = load_command_class("duroxide_django", file.stem).create_parser("manage.py", file.stem)
            for option in options_of(parser) - known:
                assert re.search(rf"`{option}\b", section), f"{file.stem} {option}"


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of a command, and the verbs and options of its subcommands."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for verb, subparser in action.choices.items():
                found |= {verb, *options_of(subparser)}
    return found


class TestSettingsPage:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", (REFERENCE / "settings.md").read_text(), re.MULTILINE))

    def test_names_every_setting(self) -> None:
        from duroxide_django.conf import Settings

        assert set(self.rows) == set(Settings.names())

    def test_states_the_defaults(self) -> None:
        from duroxide_django.conf import Settings

        stated = {name: ast.literal_eval(default) for name, default in self.rows.items()}
        assert stated == {name: vars(Settings)[name] for name in Settings.names()}


class TestChecksPage:
    def test_names_every_check_and_no_other(self) -> None:
        from duroxide_django import checks

        ids = set(re.findall(r'id="(duroxide_django\.\w+)"', inspect.getsource(checks)))
        assert (
            set(re.findall(r"^\| `(duroxide_django\.\w+)` \|", (REFERENCE / "checks.md").read_text(), re.MULTILINE))
            == ids
        )


class TestLimitsPage:
    def test_states_the_constants(self) -> None:
        text = (REFERENCE / "limits.md").read_text()
        for name in (
            "MAX_KV_KEYS",
            "MAX_KV_VALUE_BYTES",
            "MAX_CUSTOM_STATUS_BYTES",
            "MAX_TAG_NAME_BYTES",
            "MAX_WORKER_TAGS",
        ):
            [row] = re.findall(rf"^\| `{name}` \| ([^|]*) \|", text, re.MULTILINE)
            assert f"{getattr(duroxide_django, name):,}" in row


class TestParityPage:
    page = REFERENCE / "parity.md"

    def test_names_tests_that_exist(self) -> None:
        for file, name in re.findall(r"`([\w/]+\.py)(?:::([\w:]+))?`", self.page.read_text()):
            path = ROOT / "tests" / file
            assert path.is_file(), file
            found: ast.AST | None = ast.parse(path.read_text())
            for part in filter(None, name.split("::")):
                found = next((node for node in getattr(found, "body", ()) if getattr(node, "name", "") == part), None)
                assert found is not None, f"{file}::{name}"

    def test_has_every_weakness(self) -> None:
        rows = re.findall(r"^\| (W\d+[a-z]?)\b", self.page.read_text(), re.MULTILINE)
        assert {f"W{number}" for number in range(1, 36)} | {"W1b", "W9b", "W9c"} <= set(rows)


class TestLinks:
    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_lead_somewhere(self, page: Path) -> None:
        for link in links(page):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{name_of(page)}: {link}"
            if anchor:
                assert anchor in anchors(target), f"{name_of(page)}: {link}"

    def test_reach_every_page_from_the_index(self) -> None:
        seen: set[Path] = set()
        todo = [DOCS / "index.md"]
        while todo:
            page = todo.pop()
            if page in seen:
                continue
            seen.add(page)
            todo += [
                (page.parent / link.partition("#")[0]).resolve()
                for link in links(page)
                if link.partition("#")[0].endswith(".md") and not re.match(r"[a-z]+:", link)
            ]
        assert set(DOCS.rglob("*.md")) <= seen
