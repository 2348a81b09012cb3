"""duroxide from PyPI. This project's adapter is the same program, written for the same SDK."""

import importlib
import json
from typing import ClassVar

from benchmarks.engines import base


class Adapter(base.Adapter):
    """See base.Adapter."""

    #: What is imported.
    module: ClassVar[str] = "duroxide"
    package = "duroxide"
    ended_sql = (
        "SELECT count(*) FROM executions JOIN instances USING (instance_id) "
        "WHERE status = 'Completed' AND orchestration_name = '{workflow}'"
    )
    waiting_sql = "SELECT count(*) FROM executions WHERE status = 'Running'"
    missing: ClassVar[dict[str, str]] = base.NO_ADMIN | {
        "resume": "making 10,000 events takes too long (time grows with the square)"
    }
    tuning = "dispatcher_poll_interval_ms=5, both concurrencies 16, clients poll every 5 ms"
    waiting_instances = 10_000

    @property
    def sdk(self):
        return importlib.import_module(self.module)

    def provider(self):
        if self.store.backend == base.POSTGRES:
            return self.sdk.PostgresProvider.connect(self.store.place)
        return self.sdk.SqliteProvider.open(self.store.place)

    def prepare(self):
        self.provider()

    @property
    def client(self):
        if self._open is None:
            self._open = self.sdk.Client(self.provider())
        return self._open

    def start(self, instance, workflow, argument):
        self.client.start_orchestration(instance, workflow, argument)

    def wait(self, instance, timeout_s):
        return self.client.wait_for_orchestration(instance, int(timeout_s * 1000)).output

    def send(self, instance, number, text):
        self.client.enqueue_event(instance, "inbox", json.dumps(text))

    def reply(self, instance, number, timeout_s):
        options = {"poll_interval_ms": 5} if self.tuned else {}
        seen = self.client.wait_for_status_change(instance, number, timeout_ms=int(timeout_s * 1000), **options)
        return seen.custom_status

    def connect(self):
        self._open = self.sdk.Runtime(self.provider(), self.options())
        register(self._open)

    def work(self):
        self._open.start()

    def options(self):
        if not self.tuned:
            return None
        return self.sdk.RuntimeOptions(
            dispatcher_poll_interval_ms=5, orchestration_concurrency=16, worker_concurrency=16
        )

    def stop(self):
        self._open.shutdown()


def register(runtime):
    """Register the workflows."""

    @runtime.register_activity("Echo")
    def echo(ctx, value):
        return value

    @runtime.register_orchestration(base.HELLO)
    def hello(ctx, name):
        return (yield ctx.schedule_activity("Echo", f"Hello, {name}!"))

    @runtime.register_orchestration(base.SEQUENCE)
    def sequence(ctx, argument):
        for number in range(argument["steps"]):
            yield ctx.schedule_activity("Echo", number)
        if argument.get("then_wait"):
            ctx.set_custom_status("waiting")
            yield ctx.dequeue_event("inbox")
        return argument["steps"]

    @runtime.register_orchestration(base.FANOUT)
    def fan_out(ctx, steps):
        return len((yield ctx.all([ctx.schedule_activity("Echo", number) for number in range(steps)])))

    @runtime.register_orchestration(base.MAILBOX)
    def mailbox(ctx, messages):
        for _ in range(messages):
            ctx.set_custom_status((yield ctx.dequeue_event("inbox")))
        return messages

    @runtime.register_orchestration(base.WAITING)
    def waiting(ctx, argument):
        return (yield ctx.wait_for_event("never"))
