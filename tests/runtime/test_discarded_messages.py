"""What is sent to an ended instance has no effect and is removed, but never what an operator's retry sends to it."""

from __future__ import annotations

from duroxide_django.models import Instance, Message
from duroxide_django.storage import turns
from duroxide_django.storage.database import Database
from duroxide_django.storage.inbox import Outgoing, send
from tests.runtime.program import work


def send_late_event(alias):
    """Enqueue an event as one does whose transaction began while the instance still ran."""
    key = Instance.objects.using(alias).get().pk
    send(Database(alias), [Outgoing(instance=key, kind="ExternalRaised", name="go", payload="1")])


class TestAnEventForAnEndedInstance:
    def test_is_removed(self, client, program, backend):
        """It would be looked at for ever."""
        program.orchestration("Flow")(lambda ctx, _: "ended")
        client.start_orchestration("one", "Flow")
        worker = program.dispatcher()
        work(worker)
        send_late_event(backend)
        work(worker)
        assert not Message.objects.using(backend).exists()
        assert client.get_status("one").output == "ended"

    def test_takes_no_retry_along(self, client, program, backend, monkeypatch):
        """The instance had ended when it was claimed; it is reopened before its messages are read."""
        mended = []

        @program.orchestration("Flow")
        def flow(ctx, _):
            if not mended:
                raise ValueError("not yet")
            return "mended"

        client.start_orchestration("one", "Flow")
        worker = program.dispatcher()
        work(worker)
        assert client.get_status("one").status == "Failed"
        send_late_event(backend)
        read_messages = turns.read_messages

        def read_after_a_retry(*arguments):
            if not mended:
                mended.append(True)
                client.retry_instance("one")
            return read_messages(*arguments)

        monkeypatch.setattr(turns, "read_messages", read_after_a_retry)
        worker.claims, worker.fetches = True, False
        worker.iterate()
        assert mended
        work(worker)
        assert client.get_status("one").output == "mended"
        assert not Message.objects.using(backend).exists()
