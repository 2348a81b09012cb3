"""The documentation's Python works as printed, on SQLite."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duroxide_django.registry import default_registry
from tests.docs.markdown import PAGES, ROOT, Snippet, name_of, snippets

#: Tutorials are projects of their own: see test_tutorial.py.
RUNNABLE = [page for page in PAGES if snippets(page) and "tutorial" not in page.parts]


@pytest.fixture
def empty_registry() -> Iterator[None]:
    """Let a page register what it likes; the example project's functions come back afterwards."""
    activities, orchestrations = dict(default_registry.activities), dict(default_registry.orchestrations)
    default_registry.activities.clear()
    default_registry.orchestrations.clear()
    yield
    default_registry.activities.clear()
    default_registry.activities.update(activities)
    default_registry.orchestrations.clear()
    default_registry.orchestrations.update(orchestrations)


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    """A module for the page's code to live in."""
    made = types.ModuleType(f"page_{abs(hash(request.node.name))}")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.fixture
def page_runner(
    database_access: None,
    django_db_setup: None,
    empty_registry: None,
    module: types.ModuleType,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> PageRunner:
    """Runs pages with the default settings, in an empty folder."""
    settings.DUROXIDE = {}
    monkeypatch.chdir(tmp_path)
    return PageRunner(module, tmp_path)


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_runs_as_printed(page: Path, page_runner: PageRunner) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), page_runner:
        for snippet in snippets(page):
            if snippet.what == "output":
                assert printed.getvalue().strip() == snippet.text.strip(), f"{name_of(page)}:{snippet.line}"
                printed.seek(0)
                printed.truncate()
            elif snippet.what == "script":
                printed.write(page_runner.output_of(snippet, page))
            else:
                page_runner.run(snippet, page)


class PageRunner:
    """Runs the snippets of one page in one namespace and one transaction, which is rolled back."""

    def __init__(self, module: types.ModuleType, folder: Path) -> None:
        self.module = module
        self.folder = folder
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.roll_back()

    def begin(self) -> None:
        from django.db import transaction

        self.stack.enter_context(transaction.atomic())

    def roll_back(self) -> None:
        from django.db import transaction

        transaction.set_rollback(True)
        self.stack.close()

    def run(self, snippet: Snippet, page: Path) -> None:
        # Empty lines in front make tracebacks show the page's line numbers.
        source = "\n" * (snippet.line - 1) + snippet.text
        exec(compile(source, str(page), "exec", dont_inherit=True), vars(self.module))
        for value in list(vars(self.module).values()):
            if self.is_test_case(value):
                delattr(self.module, value.__name__)
                self.run_test_case(value)

    def is_test_case(self, value: object) -> bool:
        return (
            isinstance(value, type)
            and issubclass(value, unittest.TestCase)
            and value.__module__ == self.module.__name__
        )

    def run_test_case(self, test_case: type[unittest.TestCase]) -> None:
        # A test case has its own transaction, and closes the connection afterwards.
        self.roll_back()
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(test_case).run(result)
        self.begin()
        assert result.testsRun, f"{test_case.__name__} has no tests"
        assert result.wasSuccessful(), "\n".join(text for _, text in (*result.errors, *result.failures))

    def output_of(self, snippet: Snippet, page: Path) -> str:
        """Run a snippet as a program that knows nothing of a Django project; return what it prints."""
        ours = ("DJANGO_", "DUROXIDE_", "DATABASE_URL")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", snippet.text],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{name_of(page)}:{snippet.line}\n{done.stdout}\n{done.stderr}"
        return done.stdout
