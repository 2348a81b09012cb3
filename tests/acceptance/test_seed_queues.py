"""The guide's mailboxes: RequestProcessor, MultiQueue and the ChatBot."""

from __future__ import annotations

import json

ONE_CHAT_ROUND = [
    "OrchestrationStarted",
    "QueueSubscribed",
    "QueueEventDelivered",
    "ActivityScheduled",
    "ActivityCompleted",
    "CustomStatusUpdated",
]


def request_processor_program(runtime, processed):
    @runtime.register_activity("ProcessRequest")
    def process_request(ctx, request):
        processed.append(request)
        return {"done": request["data"]["id"]}

    @runtime.register_orchestration("RequestProcessor")
    def request_processor(ctx, input):
        # Block until a message arrives on the "requests" queue
        request_json = yield ctx.dequeue_event("requests")
        request = json.loads(request_json)

        result = yield ctx.schedule_activity("ProcessRequest", request)
        return result


def multi_queue_program(runtime):
    @runtime.register_orchestration("MultiQueue")
    def multi_queue(ctx, input):
        # Each queue is independent — FIFO within each queue
        command = yield ctx.dequeue_event("commands")
        config = yield ctx.dequeue_event("config")
        return {"command": command, "config": config}


def chat_bot_program(runtime):
    @runtime.register_activity("Generate")
    def generate(ctx, text):
        # Call an LLM or generate a response
        return f"Echo: {text}"

    @runtime.register_orchestration("ChatBot")
    def chat_bot(ctx, input):
        # Wait for next message on the "inbox" queue
        msg_json = yield ctx.dequeue_event("inbox")
        msg = json.loads(msg_json)

        # Process the message
        response = yield ctx.schedule_activity("Generate", msg["text"])

        # Report the response via custom status
        ctx.set_custom_status(
            json.dumps(
                {
                    "state": "replied",
                    "response": response,
                    "seq": msg["seq"],
                }
            )
        )

        # Exit on "bye", otherwise loop
        if "bye" in msg["text"].lower():
            return f"Done after {msg['seq']} msgs"

        # Restart with fresh history (messages survive continue-as-new)
        return (yield ctx.continue_as_new(""))


def say(client, seq, text, instance_id="chat-1"):
    client.enqueue_event(instance_id, "inbox", json.dumps({"seq": seq, "text": text}))


class TestRequestProcessor:
    """Program 16, first half: one request from a queue."""

    def test_processes_the_message_it_was_waiting_for(self, client, start_runtime, kinds, wait_until):
        """The text put on the queue arrives as that text; the activity gets the request in it."""
        processed = []
        start_runtime(request_processor_program, processed=processed)
        client.start_orchestration("proc-1", "RequestProcessor", None)
        wait_until(lambda: kinds("proc-1") == ["OrchestrationStarted", "QueueSubscribed"])
        client.enqueue_event("proc-1", "requests", json.dumps({"action": "process", "data": {"id": 42}}))
        assert client.wait_for_orchestration("proc-1").output == {"done": 42}
        assert processed == [{"action": "process", "data": {"id": 42}}]
        assert kinds("proc-1") == [
            "OrchestrationStarted",
            "QueueSubscribed",
            "QueueEventDelivered",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]

    def test_keeps_a_message_sent_while_nothing_runs(self, client, start_runtime, kinds, wait_until):
        """Stopped while waiting: the message is kept in the store and processed by the next runtime."""
        processed = []
        first = start_runtime(request_processor_program, processed=processed)
        client.start_orchestration("proc-1", "RequestProcessor", None)
        wait_until(lambda: "QueueSubscribed" in kinds("proc-1"))
        first.shutdown()
        client.enqueue_event("proc-1", "requests", json.dumps({"action": "process", "data": {"id": 42}}))
        start_runtime(request_processor_program, processed=processed)
        assert client.wait_for_orchestration("proc-1").output == {"done": 42}
        assert len(processed) == 1


class TestMultiQueue:
    """Program 16, second half: two queues of one instance."""

    def test_reads_each_queue_on_its_own(self, client, start_runtime):
        """A message on the second queue may come first; each queue gives its oldest message."""
        start_runtime(multi_queue_program)
        client.start_orchestration("multi-1", "MultiQueue", None)
        client.enqueue_event("multi-1", "config", {"size": 1})
        client.enqueue_event("multi-1", "config", {"size": 2})
        client.enqueue_event("multi-1", "commands", "grow")
        client.enqueue_event("multi-1", "commands", "shrink")
        result = client.wait_for_orchestration("multi-1")
        assert result.output == {"command": "grow", "config": {"size": 1}}

    def test_keeps_both_queues_over_a_restart(self, client, start_runtime, kinds, wait_until):
        """One message before the stop, one while nothing runs: both are read."""
        first = start_runtime(multi_queue_program)
        client.start_orchestration("multi-1", "MultiQueue", None)
        client.enqueue_event("multi-1", "commands", "grow")
        wait_until(lambda: kinds("multi-1").count("QueueSubscribed") == 2)
        first.shutdown()
        client.enqueue_event("multi-1", "config", {"size": 1})
        start_runtime(multi_queue_program)
        result = client.wait_for_orchestration("multi-1")
        assert result.output == {"command": "grow", "config": {"size": 1}}


class TestChatBot:
    """Program 18: queue, status and continue-as-new together."""

    def test_replies_and_says_goodbye(self, client, start_runtime, kinds):
        """The conversation as printed: a reply through the custom status, then the end."""
        start_runtime(chat_bot_program)
        # Start the chat bot
        client.start_orchestration("chat-1", "ChatBot", "")

        # Send a message
        say(client, 1, "Hello!")

        # Wait for the response
        status = client.wait_for_status_change("chat-1", 0, 50, 10000)
        reply = json.loads(status.custom_status)
        assert reply == {"state": "replied", "response": "Echo: Hello!", "seq": 1}
        assert status.custom_status_version == 1

        # End the conversation
        say(client, 2, "Bye!")
        result = client.wait_for_orchestration("chat-1")
        assert result.output == "Done after 2 msgs"
        assert json.loads(result.custom_status)["response"] == "Echo: Bye!"
        assert result.custom_status_version == 2
        assert client.list_executions("chat-1") == [1, 2]
        assert sorted(kinds("chat-1", 1)) == sorted([*ONE_CHAT_ROUND, "OrchestrationContinuedAsNew"])
        assert sorted(kinds("chat-1", 2)) == sorted([*ONE_CHAT_ROUND, "OrchestrationCompleted"])

    def test_records_a_round_in_order(self, client, start_runtime, kinds, wait_until):
        """When the bot was waiting first, a round's events stand in the order they happened."""
        start_runtime(chat_bot_program)
        client.start_orchestration("chat-1", "ChatBot", "")
        wait_until(lambda: kinds("chat-1") == ["OrchestrationStarted", "QueueSubscribed"])
        say(client, 1, "Hello!")
        wait_until(lambda: kinds("chat-1", 2) == ["OrchestrationStarted", "QueueSubscribed"])
        assert kinds("chat-1", 1) == [*ONE_CHAT_ROUND, "OrchestrationContinuedAsNew"]
        say(client, 2, "Bye!")
        assert client.wait_for_orchestration("chat-1").output == "Done after 2 msgs"
        assert kinds("chat-1", 2) == [*ONE_CHAT_ROUND, "OrchestrationCompleted"]

    def test_loses_no_message_of_a_burst(self, client, start_runtime, history):
        """Thirty messages sent at once are answered one by one, in order, over thirty executions."""
        start_runtime(chat_bot_program)
        client.start_orchestration("chat-1", "ChatBot", "")
        for seq in range(1, 31):
            say(client, seq, f"message {seq}" if seq < 30 else "bye")
        assert client.wait_for_orchestration("chat-1").output == "Done after 30 msgs"
        assert client.list_executions("chat-1") == list(range(1, 31))
        answered = []
        for execution_id in range(1, 31):
            (scheduled,) = [event for event in history("chat-1", execution_id) if event.kind == "ActivityScheduled"]
            answered.append(json.loads(scheduled.data)["input"])
        assert answered == [f"message {seq}" for seq in range(1, 30)] + ["bye"]

    def test_goes_on_chatting_after_a_restart(self, client, start_runtime):
        """Messages before, between and after two runtimes are answered in order; the version counts on."""
        first = start_runtime(chat_bot_program)
        client.start_orchestration("chat-1", "ChatBot", "")
        say(client, 1, "Hello!")
        assert client.wait_for_status_change("chat-1", 0, 50, 10000).custom_status_version == 1
        first.shutdown()

        say(client, 2, "Anybody there?")
        assert client.get_status("chat-1").custom_status_version == 1

        start_runtime(chat_bot_program)
        status = client.wait_for_status_change("chat-1", 1, 50, 10000)
        assert json.loads(status.custom_status)["response"] == "Echo: Anybody there?"
        assert status.custom_status_version == 2
        say(client, 3, "Goodbye")
        assert client.wait_for_orchestration("chat-1").output == "Done after 3 msgs"
