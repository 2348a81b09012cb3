# ruff: noqa: T201
"""The guide's session example, as printed."""

from duroxide_django import Client, Runtime, RuntimeOptions, SqliteProvider

provider = SqliteProvider.in_memory()
client = Client(provider)
runtime = Runtime(
    provider,
    RuntimeOptions(
        max_sessions_per_runtime=5,
        session_idle_timeout_ms=60000,
        worker_node_id="worker-1",
    ),
)

# Stateful activity — shares in-memory state within a session
session_state = {}


@runtime.register_activity("Accumulate")
def accumulate(ctx, input):
    sid = ctx.session_id
    if sid not in session_state:
        session_state[sid] = []
    session_state[sid].append(input)
    return session_state[sid]


@runtime.register_orchestration("BatchProcess")
def batch_process(ctx, input):
    for item in input["items"]:
        result = yield ctx.schedule_activity_on_session("Accumulate", item, f"batch-{input['batch_id']}")
    return result  # All items accumulated in order


runtime.start()

client.start_orchestration(
    "batch-1",
    "BatchProcess",
    {
        "batch_id": "001",
        "items": ["a", "b", "c"],
    },
)

result = client.wait_for_orchestration("batch-1")
print(result.output)  # ["a", "b", "c"]

runtime.shutdown()
