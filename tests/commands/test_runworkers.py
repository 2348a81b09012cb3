"""manage.py runworkers as a real process: serving, draining, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

pytestmark = pytest.mark.slow


class TestOneProcess:
    def test_serves_until_told_to_stop(self, client, start):
        """It says whom it serves, runs what comes, and SIGTERM ends it with exit code 0."""
        client.start_orchestration("before", "Sum", [1, 2])
        worker = start()
        client.start_orchestration("after", "Sum", [3, 4])
        assert client.wait_for_orchestration("before").output == 3
        assert client.wait_for_orchestration("after").output == 7
        worker.signal(signal.SIGTERM)
        code, out, err = worker.end()
        assert (code, err) == (0, "")
        assert out == "duroxide worker stopped.\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_lets_running_activities_end(self, client, start, folder, wait_until, number):
        """A signal drains: the activity finishes, its completion is kept, nothing runs twice."""
        worker = start()
        client.start_orchestration("holding-1", "Holding", str(folder))
        wait_until(lambda: folder.pid_of("holding-1") == worker.pid, timeout_s=60)
        worker.signal(number)
        client.start_orchestration("late-1", "Sum", [1, 2])
        folder.release()
        code, _, err = worker.end()
        assert (code, err) == (0, "")
        start()
        assert client.wait_for_orchestration("holding-1").output == 1
        assert client.wait_for_orchestration("late-1").output == 3
        assert folder.pid_of("holding-1", 2) is None

    def test_gives_back_what_does_not_end_in_time(self, client, start, folder, wait_until):
        """SHUTDOWN_TIMEOUT_MS is over: the activity is another worker's at once, and the exit code is still 0."""
        worker = start(WORKER_SHUTDOWN_TIMEOUT_MS="200")
        client.start_orchestration("holding-1", "Holding", str(folder))
        wait_until(lambda: folder.pid_of("holding-1"), timeout_s=60)
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()
        assert code == 0
        assert "given back" in err
        other = start()
        # Released without counting: it is the first delivery again.
        wait_until(lambda: folder.pid_of("holding-1") == other.pid, timeout_s=60)
        folder.release()
        assert client.wait_for_orchestration("holding-1").output == 1

    def test_ends_at_once_by_a_second_signal(self, client, start, folder, wait_until):
        """Whoever can't wait sends a second one."""
        worker = start()
        client.start_orchestration("holding-1", "Holding", str(folder))
        wait_until(lambda: folder.pid_of("holding-1"), timeout_s=60)
        worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while worker.popen.poll() is None and time.monotonic() < deadline:
            worker.signal(signal.SIGTERM)
            time.sleep(0.05)
        assert worker.popen.poll() not in (None, 0)

    def test_tells_an_activity_that_it_is_cancelled(self, client, start, folder, wait_until):
        """A cancel sent by another process reaches the activity long before a lease is renewed."""
        start()
        client.start_orchestration("holding-1", "Holding", str(folder))
        wait_until(lambda: folder.pid_of("holding-1"), timeout_s=60)
        client.cancel_instance("holding-1", "no need")
        sent = time.monotonic()
        wait_until(lambda: folder.cancelled("holding-1"), timeout_s=60)
        # About a second on an idle machine; leases are renewed every 25 s.
        assert time.monotonic() - sent < 10.0
        assert client.wait_for_orchestration("holding-1").error == "canceled: no need"

    def test_keeps_a_file_fresh_while_it_is_live(self, start, backend, tmp_path, wait_until):
        """For probes that can't speak HTTP; whoever stops deletes it."""
        file = tmp_path / "alive"
        worker = start("--health-file", str(file))
        wait_until(file.exists, timeout_s=60)
        os.utime(file, (0, 0))
        wait_until(lambda: file.stat().st_mtime > 0, timeout_s=60)
        worker.signal(signal.SIGTERM)
        assert worker.end()[0] == 0
        assert not file.exists()


class TestKilled:
    def test_another_worker_finishes_the_activity(self, client, start, folder, wait_until):
        """kill -9 in the middle of an activity: it is delivered again once its lease has run out."""
        lease = {"WORKER_ACTIVITY_LEASE_MS": "1500"}
        first = start(**lease)
        client.start_orchestration("holding-1", "Holding", str(folder))
        wait_until(lambda: folder.pid_of("holding-1") == first.pid, timeout_s=60)
        first.kill()
        second = start(**lease)
        wait_until(lambda: folder.pid_of("holding-1", 2) == second.pid, timeout_s=60)
        folder.release()
        assert client.wait_for_orchestration("holding-1").output == 2
        kinds = [event.kind for event in client.read_execution_history("holding-1", 1)]
        assert kinds.count("ActivityScheduled") == kinds.count("ActivityCompleted") == 1

    def test_another_worker_finishes_everything(self, client, start, wait_until):
        """kill -9 under load: each of many sequences ends with the right result."""
        lease = {"WORKER_ACTIVITY_LEASE_MS": "1500"}
        first = start(**lease)
        ids = [f"sequence-{number}" for number in range(40)]
        for instance_id in ids:
            client.start_orchestration(instance_id, "Sequence", 8)
        wait_until(lambda: client.list_instances_by_status("Completed", limit=1), timeout_s=60)
        first.kill()
        start(**lease)
        assert [client.wait_for_orchestration(instance_id).output for instance_id in ids] == [8] * 40


class TestDrain:
    def test_ends_when_nothing_is_due(self, client, run):
        """All that is due is done, and the exit code is 0."""
        for number in range(5):
            client.start_orchestration(f"sequence-{number}", "Sequence", 3)
        ended = run("--drain")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert [client.get_status(f"sequence-{number}").output for number in range(5)] == [3] * 5

    def test_of_an_empty_store_ends_at_once(self, run, backend):
        """Nothing to do."""
        assert run("--drain").returncode == 0

    def test_leaves_timers_for_later(self, client, run):
        """It doesn't wait for what is due in an hour."""
        client.start_orchestration("later-1", "Later", 3_600_000)
        assert run("--drain").returncode == 0
        assert client.get_status("later-1").status == "Running"
        assert client.get_queue_depths().orchestrator_scheduled == 1

    def test_leaves_what_it_can_not_run(self, client, run):
        """An activity with a tag, or an orchestration, that this worker doesn't serve: it ends all the same."""
        client.start_orchestration("tagged-1", "WhoAmI", "elsewhere")
        client.start_orchestration("unknown-1", "Unknown")
        client.start_orchestration("sum-1", "Sum", [1, 2])
        assert run("--drain").returncode == 0
        assert client.get_status("sum-1").output == 3
        assert client.get_status("tagged-1").status == client.get_status("unknown-1").status == "Running"


class TestProcesses:
    def test_share_the_work_and_stop_together(self, client, start, folder, wait_until):
        """Two children serve; SIGTERM to the parent drains both, and the exit code is 0."""
        parent = start("--processes", "2", "--concurrency", "1", serving=False)
        for number in range(2):
            client.start_orchestration(f"holding-{number}", "Holding", str(folder))
        pids = wait_until(
            lambda: (
                all(map(folder.pid_of, ["holding-0", "holding-1"]))
                and {folder.pid_of("holding-0"), folder.pid_of("holding-1")}
            ),
            timeout_s=60,
        )
        assert len(pids) == 2
        assert parent.pid not in pids
        parent.signal(signal.SIGTERM)
        folder.release()
        code, out, _ = parent.end()
        assert code == 0
        assert out.count("duroxide worker stopped.") == 2
        assert not any(map(_lives, pids))

    def test_drain_on_ctrl_c_in_a_terminal(self, client, start, folder, wait_until):
        """A terminal signals the whole group: the children still get one signal only, and drain."""
        parent = start("--processes", "2", "--concurrency", "1", serving=False)
        for _ in range(2):
            parent.wait_serving()
        client.start_orchestration("holding-0", "Holding", str(folder))
        wait_until(lambda: folder.pid_of("holding-0"), timeout_s=60)
        os.killpg(parent.pid, signal.SIGINT)
        folder.release()
        code, out, _ = parent.end()
        assert code == 0
        assert out.count("duroxide worker stopped.") == 2

    def test_stopped_while_they_still_start_end_cleanly(self, start, wait_until):
        """SIGTERM before a child has taken over its signals: it did nothing yet, which is no failure."""
        parent = start("--processes", "2", serving=False)
        wait_until(lambda: len(_children(parent.pid)) == 2, timeout_s=60)
        parent.signal(signal.SIGTERM)
        code, _, err = parent.end()
        assert code == 0, err

    def test_drain_when_their_supervisor_is_gone(self, client, start, folder, wait_until):
        """kill -9 of the parent: the children finish what they run and end; nobody is left to double them."""
        parent = start("--processes", "2", "--concurrency", "1", serving=False)
        client.start_orchestration("holding-0", "Holding", str(folder))
        child = wait_until(lambda: folder.pid_of("holding-0"), timeout_s=60)
        parent.popen.kill()
        folder.release()
        wait_until(lambda: not _lives(child), timeout_s=60)
        _, _, err = parent.end()
        assert err.count("The supervisor is gone; draining.") == 2

    def test_are_restarted_when_they_die(self, client, start, folder, wait_until):
        """kill -9 of a child: another one is started, and the work is finished."""
        parent = start("--processes", "2", "--concurrency", "1", serving=False, WORKER_ACTIVITY_LEASE_MS="1500")
        client.start_orchestration("holding-0", "Holding", str(folder))
        killed = wait_until(lambda: folder.pid_of("holding-0"), timeout_s=60)
        os.kill(killed, signal.SIGKILL)
        again = wait_until(lambda: folder.pid_of("holding-0", 2), timeout_s=60)
        assert again != killed
        # Two more that hold both slots: the dead child's place is taken by a new one.
        client.start_orchestration("holding-1", "Holding", str(folder))
        third = wait_until(lambda: folder.pid_of("holding-1"), timeout_s=60)
        assert len({killed, again, third}) == 3
        folder.release()
        for number in range(2):
            client.wait_for_orchestration(f"holding-{number}")
        assert client.get_status("holding-0").output == 2
        parent.signal(signal.SIGTERM)
        code, _, err = parent.end()
        assert code == 0
        assert "ended with -9; restarting" in err

    def test_let_activities_run_workers_of_their_own(self, client, start):
        """What a supervisor tells its children is not handed on: such a worker has no supervisor."""
        start("--processes", "2", serving=False)
        client.start_orchestration("nesting-1", "Nesting")
        code, err = client.wait_for_orchestration("nesting-1", 60_000).output
        assert (code, "supervisor" in err) == (0, False), err

    def test_end_at_once_by_a_second_signal(self, client, start, folder, wait_until):
        """The second signal kills the children too."""
        parent = start("--processes", "2", serving=False)
        client.start_orchestration("holding-0", "Holding", str(folder))
        child = wait_until(lambda: folder.pid_of("holding-0"), timeout_s=60)
        parent.signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while parent.popen.poll() is None and time.monotonic() < deadline:
            parent.signal(signal.SIGTERM)
            time.sleep(0.05)
        assert parent.popen.poll() not in (None, 0)
        wait_until(lambda: not _lives(child))


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class TestOptions:
    def test_serve_tags_and_kinds_of_work(self, client, start, wait_until):
        """One worker for orchestrations, one for plain activities, one for a tag."""
        start("--no-activities")
        plain = start("--no-orchestrations", "--concurrency", "2")
        gpu = start("--no-orchestrations", "--tag", "gpu", "--only-tags", "--node-id", "gpu-node")
        client.start_orchestration("plain-1", "WhoAmI", None)
        client.start_orchestration("gpu-1", "WhoAmI", "gpu")
        assert client.wait_for_orchestration("plain-1").output == plain.pid
        assert client.wait_for_orchestration("gpu-1").output == gpu.pid

    def test_log_to_stderr_in_the_wanted_form(self, client, start):
        """--log-level and --log-format are those of RuntimeOptions."""
        worker = start("--log-level", "info", "--log-format", "json")
        client.start_orchestration("who-1", "WhoAmI", None)
        assert client.wait_for_orchestration("who-1").output == worker.pid
        worker.signal(signal.SIGTERM)
        code, _, err = worker.end()
        assert code == 0
        (line,) = map(json.loads, err.splitlines())
        assert (line["message"], line["instance_id"], line["level"]) == ("asking", "who-1", "INFO")


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--processes", "0"], "--processes must be at least 1"),
            (["--processes", "2", "--drain"], "--drain.* works? with one process"),
            (["--only-tags"], "--only-tags needs at least one --tag"),
            (["--concurrency", "-1"], "worker_concurrency must be a whole number of at least 0, got -1"),
            (["--log-level", "loud"], "log_level must be one of"),
            (["--tag", "a", "--tag", "b", "--tag", "c", "--tag", "d", "--tag", "e", "--tag", "f"], "1 to 5 tags"),
            (["--node-id", ""], "worker_node_id must not be empty"),
            (["--log-format", "xml"], "invalid choice"),
            (["--concurrency", "many"], "invalid int value"),
        ],
    )
    def test_arguments_say_what_was_expected(self, backend, arguments, message):
        """A mistake on the command line is a CommandError, before anything runs."""
        with pytest.raises(CommandError, match=message):
            call_command("runworkers", *arguments)

    def test_an_unknown_alias_says_so(self, backend):
        """The alias must be one of DATABASES."""
        with pytest.raises(CommandError, match="'nowhere'"):
            call_command("runworkers", "--using", "nowhere")

    def test_missing_tables_end_it_with_exit_code_1(self, run, tmp_path, backend):
        """An empty database: one sentence with the cure, no traceback."""
        variables = {"DUROXIDE_TEST_BACKEND": "sqlite", "DUROXIDE_TEST_SQLITE_FILE": str(tmp_path / "empty.sqlite3")}
        ended = run(**variables)
        assert ended.returncode == 1
        assert "migrate --database sqlite" in ended.stderr
        assert "Traceback" not in ended.stderr


class TestHints:
    """Workers that look by themselves once a minute only."""

    def test_reach_another_process_from_every_start_of_a_burst(self, client, start):
        """Starts that follow one another send fewer hints than there are starts; none waits for a poll."""
        start(WORKER_POLL_INTERVAL_MS="60000")
        for number in range(60):
            client.start_orchestration(f"sum-{number}", "Sum", [number, 1])
        for number in range(60):
            assert client.wait_for_orchestration(f"sum-{number}", timeout_ms=60_000).output == number + 1

    def test_reach_the_worker_that_serves_a_tag(self, client, start):
        """Whoever schedules an activity that it can't run tells the others."""
        start("--no-orchestrations", "--tag", "elsewhere", "--only-tags", WORKER_POLL_INTERVAL_MS="60000")
        start(WORKER_POLL_INTERVAL_MS="60000")
        for number in range(5):
            client.start_orchestration(f"tagged-{number}", "WhoAmI", "elsewhere")
            client.wait_for_orchestration(f"tagged-{number}", timeout_ms=60_000)
