# ruff: noqa: T201
"""The guide's chat bot, as printed; ``python chat.py FILE first|last`` holds one half of the conversation."""

import json
import sys

from duroxide_django import Client, Runtime, SqliteProvider

file, half = sys.argv[1:]
provider = SqliteProvider.open(file)
client = Client(provider)
runtime = Runtime(provider)


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


runtime.start()

# --- Client side ---

if half == "first":
    # Start the chat bot
    client.start_orchestration("chat-1", "ChatBot", "")

    # Send a message
    client.enqueue_event("chat-1", "inbox", json.dumps({"seq": 1, "text": "Hello!"}))

    # Wait for the response
    status = client.wait_for_status_change("chat-1", 0, 50, 10000)
    reply = json.loads(status.custom_status)
    print(reply["response"])  # "Echo: Hello!"
else:
    # End the conversation
    client.enqueue_event("chat-1", "inbox", json.dumps({"seq": 2, "text": "Bye!"}))
    print(client.wait_for_orchestration("chat-1").output)

runtime.shutdown()
