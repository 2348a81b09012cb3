"""The README's two commands on a machine that isn't as it should be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Debian's Python without its package python3-venv: an environment appears, but without pip.
PYTHON_WITHOUT_PIP = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
    "{python}" -m venv --without-pip "$3"
    exit 1
fi
exec "{python}" "$@"
"""


def make_demo(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    # Called by `make test VENV=…`, this make would take that one's options and variables for its own.
    command = ["make", "--no-print-directory", f"PYTHON={python}", "VENV=.venv", "demo"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(command, cwd=folder, env=ours, capture_output=True, text=True, check=False, timeout=120)


def test_an_environment_that_could_not_be_made_is_made_anew_the_next_time(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python-without-pip"
    python.write_text(PYTHON_WITHOUT_PIP.format(python=sys.executable))
    python.chmod(0o755)

    for _ in range(2):
        ran = make_demo(tmp_path, str(python))
        assert ran.returncode != 0
        assert "-m venv" in ran.stdout
        assert "No module named pip" not in ran.stderr


def test_a_python_that_is_too_old_is_refused_in_words(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / "old-python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)

    ran = make_demo(tmp_path, str(python))

    assert ran.returncode != 0
    assert "Python 3.11 or newer is needed" in ran.stdout
    assert not (tmp_path / ".venv").exists()


def test_tests_on_postgresql_refuse_another_database():
    ran = subprocess.run(
        [sys.executable, "-c", "import tests.settings"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "sqlite:///orders.sqlite3"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode != 0
    assert "The tests need a PostgreSQL" in ran.stderr
