"""raise_event, enqueue_event, cancel_instance: what they promise, and what they say about whom they can't reach."""

from __future__ import annotations

import pytest
from django.db import transaction

from duroxide_django import InstanceNotFound, OrchestrationCancelled
from tests.runtime.program import failing_transaction

SIGNALS = {
    "raise_event": lambda client, instance_id: client.raise_event(instance_id, "go", {"n": 1}),
    "raise_event_typed": lambda client, instance_id: client.raise_event_typed(instance_id, "go", {"n": 1}),
    "enqueue_event": lambda client, instance_id: client.enqueue_event(instance_id, "inbox", {"n": 1}),
    "enqueue_event_typed": lambda client, instance_id: client.enqueue_event_typed(instance_id, "inbox", {"n": 1}),
    "cancel_instance": lambda client, instance_id: client.cancel_instance(instance_id, "enough"),
    "forced cancel": lambda client, instance_id: client.cancel_instance(instance_id, "enough", force=True),
}


@pytest.fixture(params=SIGNALS)
def send(request, client):
    """Send one signal of each kind to an instance."""
    return lambda instance_id: SIGNALS[request.param](client, instance_id)


@pytest.fixture(autouse=True)
def workflows(program):
    @program.orchestration("Waiting")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))

    @program.orchestration("Inbox")
    def inbox(ctx, count):
        received = []
        for _ in range(count):
            received += [(yield ctx.dequeue_event("inbox"))]
        return received

    @program.orchestration("Done")
    def done(ctx, input):
        return "done"


class TestAddressee:
    def test_an_unknown_instance_is_an_error(self, send, count_rows):
        """InstanceNotFound names the id, is a RuntimeError too, and nothing is written."""
        with pytest.raises(InstanceNotFound, match="'nobody' not found") as caught:
            send("nobody")
        assert caught.value.instance_id == "nobody"
        assert isinstance(caught.value, RuntimeError)
        assert not any(count_rows().values())

    def test_an_ended_instance_is_reported_by_false(self, client, program, send, count_rows):
        """The instance has ended: the answer is False, nothing is written, its result stays."""
        client.start_orchestration("done-1", "Done")
        program.drain()
        before = count_rows()
        assert send("done-1") is False
        assert count_rows() == before
        assert client.get_status("done-1").output == "done"

    def test_a_running_instance_is_reported_by_true(self, client, program, send):
        """True: the signal will be processed."""
        client.start_orchestration("waiting-1", "Waiting")
        program.drain()
        assert send("waiting-1") is True

    def test_an_instance_that_no_worker_has_seen_takes_signals(self, client, send):
        """Right after its start, before the first turn, an instance can be signalled."""
        client.start_orchestration("waiting-1", "Waiting")
        assert send("waiting-1") is True

    def test_the_error_leaves_the_transaction_usable(self, client, backend, send, program):
        """After InstanceNotFound was caught the caller's transaction goes on."""
        with transaction.atomic(using=backend):
            with pytest.raises(InstanceNotFound):
                send("nobody")
            client.start_orchestration("done-1", "Done")
        program.drain()
        assert client.get_status("done-1").output == "done"

    def test_a_rolled_back_signal_never_was(self, client, backend, program, send, count_rows):
        """The signal goes with the transaction that sent it."""
        client.start_orchestration("waiting-1", "Waiting")
        program.drain()
        before = count_rows()
        with failing_transaction(backend):
            assert send("waiting-1") is True
        assert count_rows() == before
        program.drain()
        assert client.get_status("waiting-1").status == "Running"


class TestEvents:
    @pytest.mark.parametrize("data", [None, "", "text", '{"dumped": 1}', 0, [1, None], {"ä": "☃"}])
    def test_data_arrives_as_sent(self, client, program, data):
        """JSON values arrive as they are; a text stays a text, even if it looks like JSON."""
        client.start_orchestration("waiting-1", "Waiting")
        client.raise_event("waiting-1", "go", data)
        program.drain()
        assert client.get_status("waiting-1").output == data

    def test_data_is_none_if_left_out(self, client, program):
        """An event without data gives None."""
        client.start_orchestration("waiting-1", "Waiting")
        client.raise_event("waiting-1", "go")
        program.drain()
        result = client.get_status("waiting-1")
        assert (result.status, result.output) == ("Completed", None)

    def test_another_name_does_not_end_the_wait(self, client, program):
        """Events are told apart by their exact name."""
        client.start_orchestration("waiting-1", "Waiting")
        client.raise_event("waiting-1", "GO", "wrong")
        client.raise_event("waiting-1", "go ", "wrong")
        program.drain()
        assert client.get_status("waiting-1").status == "Running"
        client.raise_event("waiting-1", "go", "right")
        program.drain()
        assert client.get_status("waiting-1").output == "right"


class TestQueues:
    def test_messages_arrive_in_the_order_sent(self, client, program):
        """FIFO, whether sent before or after the first turn, in one transaction or several."""
        client.start_orchestration("inbox-1", "Inbox", 5)
        client.enqueue_event("inbox-1", "inbox", "a")
        client.enqueue_event("inbox-1", "inbox", "b")
        program.drain()
        with transaction.atomic(using=client.db.alias):
            client.enqueue_event("inbox-1", "inbox", "c")
            client.enqueue_event("inbox-1", "inbox", "d")
        client.enqueue_event("inbox-1", "inbox")
        program.drain()
        assert client.get_status("inbox-1").output == ["a", "b", "c", "d", None]

    def test_a_queue_is_not_an_event(self, client, program):
        """A queue and an event of the same name don't meet."""
        client.start_orchestration("waiting-1", "Waiting")
        client.enqueue_event("waiting-1", "go", "from the queue")
        program.drain()
        assert client.get_status("waiting-1").status == "Running"


class TestCancel:
    def test_ends_the_instance_as_failed_and_cancelled(self, client, program):
        """Status Failed, the reason in the error, and a flag that tells it from other failures."""
        client.start_orchestration("waiting-1", "Waiting")
        program.drain()
        client.cancel_instance("waiting-1", "changed my mind")
        program.drain()
        result = client.get_status("waiting-1")
        assert (result.status, result.error, result.is_cancelled) == ("Failed", "canceled: changed my mind", True)
        assert result.output is None

    def test_works_without_a_reason(self, client, program):
        """The reason may be left out."""
        client.start_orchestration("waiting-1", "Waiting")
        client.cancel_instance("waiting-1")
        program.drain()
        assert client.get_status("waiting-1").error == "canceled: "

    def test_before_the_first_turn_it_takes_effect_in_it(self, client, program):
        """Started and cancelled before a worker came: it ends cancelled."""
        client.start_orchestration("waiting-1", "Waiting")
        client.cancel_instance("waiting-1", "early")
        program.drain()
        assert client.get_status("waiting-1").error == "canceled: early"

    def test_the_first_reason_wins(self, client, program):
        """Cancelling again changes nothing."""
        client.start_orchestration("waiting-1", "Waiting")
        assert client.cancel_instance("waiting-1", "first") is True
        assert client.cancel_instance("waiting-1", "second") is True
        program.drain()
        assert client.get_status("waiting-1").error == "canceled: first"

    def test_lets_the_function_clean_up(self, client, program):
        """OrchestrationCancelled is raised at the yield; activities may still run to undo what was done."""
        undone = []
        program.activity("Undo")(lambda ctx, what: undone.append(what))

        @program.orchestration("Careful")
        def careful(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled as cancelled:
                yield ctx.schedule_activity("Undo", cancelled.reason)
                raise

        client.start_orchestration("careful-1", "Careful")
        program.drain()
        client.cancel_instance("careful-1", "no need")
        program.drain()
        assert undone == ["no need"]
        assert client.get_status("careful-1").error == "canceled: no need"

    def test_force_ends_it_without_clean_up(self, client, program):
        """A forced cancel doesn't ask the function."""

        @program.orchestration("Stubborn")
        def stubborn(ctx, input):
            while True:
                try:
                    yield ctx.wait_for_event("never")
                except OrchestrationCancelled:
                    continue

        client.start_orchestration("stubborn-1", "Stubborn")
        program.drain()
        client.cancel_instance("stubborn-1", "now", force=True)
        program.drain()
        assert client.get_status("stubborn-1").error == "canceled: now"

    def test_force_ends_an_instance_whose_code_is_missing(self, client, program):
        """No worker has the code: a forced cancel ends it all the same, at once."""
        client.start_orchestration("lost-1", "Lost")
        program.drain(jump=False)
        assert client.get_status("lost-1").status == "Running"
        client.cancel_instance("lost-1", "never mind", force=True)
        program.drain(jump=False)
        result = client.get_status("lost-1")
        assert (result.status, result.error, result.is_cancelled) == ("Failed", "canceled: never mind", True)

    def test_reaches_all_descendants(self, client, program):
        """Children and their children end cancelled too, told that their parent was."""

        @program.orchestration("Nested")
        def nested(ctx, depth):
            if depth:
                return (yield ctx.schedule_sub_orchestration_with_id("Nested", f"depth-{depth - 1}", depth - 1))
            return (yield ctx.wait_for_event("never"))

        client.start_orchestration("depth-2", "Nested", 2)
        program.drain()
        client.cancel_instance("depth-2", "top")
        program.drain()
        assert client.get_status("depth-2").error == "canceled: top"
        for child in ("depth-1", "depth-0"):
            assert client.get_status(child).error == "canceled: parent canceled"
