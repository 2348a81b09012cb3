"""absurd-sdk from PyPI; its schema is applied by absurdctl from PyPI, which carries it (and needs ``psql``)."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

from benchmarks.engines import base

QUEUE = "default"


class Adapter(base.Adapter):
    """See base.Adapter."""

    package = "absurd-sdk"
    backends = (base.POSTGRES,)
    ended_sql = "SELECT count(*) FROM absurd.t_default WHERE state = 'completed' AND task_name = '{workflow}'"
    waiting_sql = "SELECT count(*) FROM absurd.t_default WHERE state = 'sleeping'"
    missing: ClassVar[dict[str, str]] = base.NO_ADMIN | {"resume": "not built for this engine"}
    remarks: ClassVar[dict[str, str]] = {
        "sequence": "steps run inside the task",
        "fanout": "1,000 steps inside the task, one after another",
        "queue": "an event wakes a task of its own, and the client waits for that task's result: there is no status",
    }
    tuning = "concurrency=8, poll_interval=0.005"
    waiting_instances = 10_000

    def prepare(self):
        tool = Path(sys.executable).with_name("absurdctl")
        subprocess.run([str(tool), "init", "-d", self.store.place], check=True, stdout=subprocess.DEVNULL)
        self.app.create_queue()

    @property
    def app(self):
        from absurd_sdk import Absurd

        if self._open is None:
            # Beside the connection: the task ids, as tasks have no names of our choice.
            self._open = (Absurd(self.store.place), {})
        return self._open[0]

    @property
    def tasks(self):
        return self._open[1]

    def start(self, instance, workflow, argument):
        spawned = self.app.spawn(workflow, argument, queue=QUEUE)
        self.tasks[instance] = spawned["task_id"]

    def wait(self, instance, timeout_s):
        return self.app.await_task_result(self.tasks[instance], timeout=timeout_s).result

    def open_mailbox(self, instance, messages):
        for number in range(messages):
            self.start(f"{instance}-{number}", base.MAILBOX, f"{instance}-{number}")
        return messages

    def send(self, instance, number, text):
        self.app.emit_event(f"{instance}-{number}", text)

    def reply(self, instance, number, timeout_s):
        return self.wait(f"{instance}-{number}", timeout_s)

    def connect(self):
        register(self.app)

    def work(self):
        options = {"concurrency": 8, "poll_interval": 0.005} if self.tuned else {}
        threading.Thread(target=self.app.start_worker, kwargs=options, daemon=True).start()

    def stop(self):
        self.app.stop_worker()


def register(app):
    """Register the workflows."""

    @app.register_task(name=base.HELLO)
    def hello(name, ctx):
        return ctx.step("echo", lambda: f"Hello, {name}!")

    @app.register_task(name=base.SEQUENCE)
    def sequence(argument, ctx):
        for number in range(argument["steps"]):
            ctx.step(f"echo-{number}", lambda number=number: number)
        return argument["steps"]

    @app.register_task(name=base.FANOUT)
    def fan_out(steps, ctx):
        return len([ctx.step(f"echo-{number}", lambda number=number: number) for number in range(steps)])

    @app.register_task(name=base.MAILBOX)
    def mailbox(event, ctx):
        return ctx.await_event(event)

    @app.register_task(name=base.WAITING)
    def waiting(argument, ctx):
        return ctx.await_event("never")
