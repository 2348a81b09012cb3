"""The guide's programs with two runtimes at work on one store: nothing is lost, nothing is doubled."""

from __future__ import annotations

import threading

from tests.acceptance.test_seed_events import approval_program
from tests.acceptance.test_seed_fanout_and_race import fan_out_program
from tests.acceptance.test_seed_queues import chat_bot_program, say

CHATS = [f"chat-{number}" for number in range(8)]


def backlog_program(runtime, begun, gate):
    @runtime.register_activity("Prepare")
    def prepare(ctx, input):
        begun.append(ctx.instance_id)
        gate.wait(30)

    @runtime.register_orchestration("Backlog")
    def backlog(ctx, input):
        yield ctx.schedule_activity("Prepare")
        first = yield ctx.dequeue_event("inbox")
        second = yield ctx.dequeue_event("inbox")
        third = yield ctx.dequeue_event("inbox")
        return [first, second, third]


class TestTwoRuntimes:
    """Whichever runtime takes a turn, an instance sees one history."""

    def test_answer_every_chat_in_order(self, client, start_runtime):
        """Program 18: eight conversations of ten messages each end after their tenth."""
        for _ in range(2):
            start_runtime(chat_bot_program)
        for chat in CHATS:
            client.start_orchestration(chat, "ChatBot", "")
        for seq in range(1, 11):
            for chat in CHATS:
                say(client, seq, "bye" if seq == 10 else f"message {seq}", chat)
        for chat in CHATS:
            assert client.wait_for_orchestration(chat, 15000).output == "Done after 10 msgs"
            assert client.list_executions(chat) == list(range(1, 11))

    def test_lose_no_message_that_came_during_an_activity(self, client, start_runtime, wait_until):
        """Messages taken in by one runtime, while an activity runs in the other, are read in order."""
        begun, gate = [], threading.Event()
        try:
            for _ in range(2):
                start_runtime(backlog_program, begun=begun, gate=gate)
            for chat in CHATS:
                client.start_orchestration(chat, "Backlog", None)
            wait_until(lambda: len(begun) == len(CHATS))
            for seq in (1, 2, 3):
                for chat in CHATS:
                    client.enqueue_event(chat, "inbox", seq)
                wait_until(lambda: client.get_queue_depths().orchestrator_queue == 0)
        finally:
            gate.set()
        outputs = [client.wait_for_orchestration(chat, 10000).output for chat in CHATS]
        assert outputs == [[1, 2, 3]] * len(CHATS)

    def test_execute_each_approval_once(self, client, start_runtime, kinds, wait_until):
        """Program 7: twelve approvals lead to twelve executions."""
        done = []
        for _ in range(2):
            start_runtime(approval_program, done=done)
        numbers = list(range(12))
        for number in numbers:
            client.start_orchestration(f"instance-{number}", "ApprovalWorkflow", number)
        for number in numbers:
            client.raise_event(f"instance-{number}", "approval", {"approved": True})
        for number in numbers:
            assert client.wait_for_orchestration(f"instance-{number}", 15000).output == "approved"
        assert sorted(done) == sorted((name, number) for name in ("RequestApproval", "Execute") for number in numbers)

    def test_process_each_item_once(self, client, start_runtime):
        """Program 3: a hundred items are shared out, none twice."""
        calls = []

        def process_item(ctx, item):
            calls.append(item)
            return item * 2

        for _ in range(2):
            start_runtime(fan_out_program, process_item=process_item)
        client.start_orchestration("fan-1", "FanOut", {"items": list(range(100))})
        output = client.wait_for_orchestration("fan-1", 15000).output
        assert output == [{"ok": item * 2} for item in range(100)]
        assert sorted(calls) == list(range(100))
