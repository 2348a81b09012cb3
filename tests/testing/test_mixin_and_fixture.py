"""The unittest mixin and the pytest fixture: client, clock and drain() in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.test import TestCase

from duroxide_django.engine.registry import Registry
from duroxide_django.registry import default_registry
from duroxide_django.testing import Workflows, WorkflowsMixin, virtual_clock

ROOT = Path(__file__).resolve().parents[2]
DAY_MS = 24 * 60 * 60 * 1000


def reminds(ctx, days):
    yield ctx.schedule_timer(days * DAY_MS)
    return "reminded"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(default_registry, "orchestrations", {})
    default_registry.add_orchestration("Reminds", reminds)


@pytest.mark.usefixtures("registered")
class TestTheMixin(WorkflowsMixin, TestCase):
    workflows_using = "default"

    def test_runs_a_workflow_to_its_end(self):
        assert self.workflows.run("Reminds", 3).output == "reminded"

    def test_stops_the_clock_until_it_is_moved(self):
        before = self.workflows.clock.now_ms
        started = self.workflows.run("Reminds", 3, instance_id="r-1", jump=False)
        assert started.status == "Running"
        self.workflows.clock.advance(days=2)
        self.workflows.drain(jump=False)
        assert self.workflows.client.get_status("r-1").status == "Running"
        self.workflows.clock.advance(days=1)
        self.workflows.drain(jump=False)
        assert self.workflows.client.get_status("r-1").output == "reminded"
        assert self.workflows.clock.now_ms == before + 3 * DAY_MS

    def test_tells_unhealthy_instances(self):
        self.workflows.run("Reminds", 1, jump=False)
        self.workflows.assert_healthy()
        self.workflows.run("Unknown", 1, instance_id="lost-1")
        with pytest.raises(AssertionError, match="lost-1"):
            self.workflows.assert_healthy()


def test_workflows_may_live_anywhere_and_have_their_own_functions(backend):
    registry = Registry()
    registry.add_orchestration("Own", lambda ctx, input: input)
    with virtual_clock() as clock:
        workflows = Workflows(clock, using=backend, registry=registry)
        assert workflows.run("Own", 7).output == 7
        workflows.assert_healthy()


FIXTURE_TESTS = """
import pytest
from duroxide_django import orchestration

@orchestration("Reminds")
def reminds(ctx, days):
    yield ctx.schedule_timer(days * 24 * 60 * 60 * 1000)
    return "reminded"

def test_jumps(workflows):
    assert workflows.run(reminds, 3).output == "reminded"

def test_is_rolled_back_after_each_test(workflows):
    assert workflows.client.list_all_instances() == []
    assert workflows.run(reminds, 3, jump=False).status == "Running"
    before = workflows.clock.now_ms
    workflows.clock.advance(days=3)
    workflows.drain(jump=False)
    assert workflows.clock.now_ms == before + 3 * 24 * 60 * 60 * 1000
    assert [workflows.client.get_status(i).output for i in workflows.client.list_all_instances()] == ["reminded"]
"""
FIXTURE_SETTINGS = """
INSTALLED_APPS = ["duroxide_django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
"""


def run_pytest(folder: Path, *arguments: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "DUROXIDE", "PYTEST"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "duroxide_django.pytest_plugin", "-W", "error", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_fixture_gives_the_same_to_functions(tmp_path):
    (tmp_path / "test_reminds.py").write_text(FIXTURE_TESTS)
    (tmp_path / "shop_settings.py").write_text(FIXTURE_SETTINGS)
    assert "2 passed" in run_pytest(tmp_path, "--ds=shop_settings")


@pytest.mark.slow
def test_the_plugin_leaves_projects_without_django_alone(tmp_path):
    (tmp_path / "test_plain.py").write_text("import sys\ndef test_plain(): assert 'django.db' not in sys.modules\n")
    assert "1 passed" in run_pytest(tmp_path, "-p", "no:django")


def test_the_entry_point_is_the_module_itself():
    """Under another name, ``-p duroxide_django.pytest_plugin`` would register it twice."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugin = "duroxide_django.pytest_plugin"
    assert project["entry-points"]["pytest11"] == {plugin: plugin}
    assert settings.configured
