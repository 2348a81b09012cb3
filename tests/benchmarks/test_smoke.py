"""``python -m benchmarks`` runs: small, on SQLite, this project only, with the packages that the tests have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def figures_of(workload, tmp_path):
    """Run a workload small; return its figures."""
    file = tmp_path / "figures.json"
    chosen = ["--quick", "--only", workload, "--backend", "sqlite", "--runs", "2"]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--here", *chosen, "--json", str(file), "--dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(file.read_text())
    assert figures["not_had"] == []
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    return {row["measure"]: row["engines"]["duroxide_django"] for row in figures["results"]}


@pytest.mark.slow
def test_hello_is_measured_and_reported(tmp_path):
    hello = figures_of("hello", tmp_path)["hello"]
    assert len(hello["values"]) == 2
    assert hello["median"] > 0


@pytest.mark.slow
def test_each_page_of_the_admin_is_measured(tmp_path):
    figures = figures_of("admin", tmp_path)
    assert {"list", "overview", "instance of a long history", "history as JSON", "duroxide doctor"} <= figures.keys()
    assert all(figure["median"] > 0 for figure in figures.values())
    assert figures["list: queries"]["median"] < 12
