"""A reader who follows the tutorial to the letter gets a project that works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT, Snippet, name_of, snippets

TUTORIALS = sorted((DOCS / "tutorial").glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=name_of)
def test_works_to_the_letter(page: Path, tmp_path: Path) -> None:
    folder = tmp_path
    for snippet in snippets(page):
        if snippet.what == "run":
            for command in commands(snippet):
                folder = carry_out(command, folder, f"{name_of(page)}:{snippet.line}")
        else:
            assert snippet.path
            with open_file(folder / snippet.path, append=snippet.what == "append") as file:
                file.write(snippet.text + "\n")


def commands(snippet: Snippet) -> list[str]:
    """Return the commands of a console block (lines after a prompt), or the lines of an unseen one."""
    lines = snippet.text.splitlines()
    if snippet.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip()]


def carry_out(command: str, folder: Path, where: str) -> Path:
    """Run a command as a reader would; return the folder in which the next one runs."""
    if command.startswith("cd "):
        return folder / command.removeprefix("cd ")
    command = command.replace("django-admin", "python -m django")
    command = re.sub("^python ", f"{sys.executable} ", command)
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{where}: {command}\n{done.stdout}\n{done.stderr}"
    return folder


def environment() -> dict[str, str]:
    """Return an environment that knows the package, but nothing of the tests' settings."""
    ours = ("DJANGO_", "DUROXIDE_", "DATABASE_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT)}


def open_file(path: Path, *, append: bool):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a" if append else "w")
