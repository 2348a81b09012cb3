"""dbos from PyPI: a queue worker in its own process and ``DBOSClient``, as its documentation describes them."""

from typing import ClassVar

from benchmarks.engines import base

QUEUE = "bench"
POLL_S = 0.01
FOREVER_S = 86_400


class Adapter(base.Adapter):
    """See base.Adapter."""

    package = "dbos"
    missing: ClassVar[dict[str, str]] = base.NO_ADMIN | {"resume": "not built for this engine"}
    remarks: ClassVar[dict[str, str]] = {
        "sequence": "steps run inside the workflow function",
        "fanout": "each of the 1,000 is a child workflow on the queue",
        "idle": "a waiting workflow holds a thread",
    }
    tuning = f"queue and results polled every {POLL_S * 1000:.0f} ms, client with use_listen_notify"
    waiting_instances = 1_000

    @property
    def ended_sql(self):
        return f"SELECT count(*) FROM {self._schema}workflow_status WHERE status = 'SUCCESS' AND name = '{{workflow}}'"

    @property
    def waiting_sql(self):
        return f"SELECT count(*) FROM {self._schema}workflow_status WHERE status = 'PENDING'"

    @property
    def _schema(self):
        return "dbos." if self.store.backend == base.POSTGRES else ""

    @property
    def _has_notify(self):
        return self.store.backend == base.POSTGRES

    @property
    def url(self):
        return self.store.place if self.store.backend == base.POSTGRES else f"sqlite:///{self.store.place}"

    def prepare(self):
        from dbos import run_dbos_database_migrations

        run_dbos_database_migrations(self.url)

    @property
    def client(self):
        from dbos import DBOSClient

        if self._open is None:
            self._open = DBOSClient(system_database_url=self.url, use_listen_notify=self.tuned and self._has_notify)
        return self._open

    def start(self, instance, workflow, argument):
        options = {"workflow_name": workflow, "queue_name": QUEUE, "workflow_id": instance}
        self.client.enqueue(options, argument)

    def wait(self, instance, timeout_s):
        how = {"polling_interval_sec": POLL_S} if self.tuned else {}
        return self.client.retrieve_workflow(instance).get_result(**how)

    def send(self, instance, number, text):
        self.client.send(instance, text, "inbox")

    def reply(self, instance, number, timeout_s):
        return self.client.get_event(instance, f"reply-{number}", timeout_s)

    def connect(self):
        from dbos import DBOS

        DBOS(config={"name": "bench", "system_database_url": self.url, "log_level": "WARNING"})
        register(DBOS)
        self._open = DBOS

    def work(self):
        self._open.launch()
        self._open.register_queue(QUEUE, **({"polling_interval_sec": POLL_S} if self.tuned else {}))

    def stop(self):
        self._open.destroy()


def register(dbos):
    """Register the workflows."""

    @dbos.step()
    def echo(value):
        return value

    @dbos.workflow(name=base.HELLO)
    def hello(name):
        return echo(f"Hello, {name}!")

    @dbos.workflow(name=base.SEQUENCE)
    def sequence(argument):
        for number in range(argument["steps"]):
            echo(number)
        return argument["steps"]

    @dbos.workflow(name="Child")
    def child(value):
        return value

    @dbos.workflow(name=base.FANOUT)
    def fan_out(steps):
        handles = [dbos.enqueue_workflow(QUEUE, child, number) for number in range(steps)]
        return len([handle.get_result() for handle in handles])

    @dbos.workflow(name=base.MAILBOX)
    def mailbox(messages):
        for number in range(messages):
            dbos.set_event(f"reply-{number}", dbos.recv("inbox", timeout_seconds=FOREVER_S))
        return messages

    @dbos.workflow(name=base.WAITING)
    def waiting(argument):
        return dbos.recv("never", timeout_seconds=FOREVER_S)
