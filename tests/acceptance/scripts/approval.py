# ruff: noqa: T201
"""The guide's approval workflow in a process that is meant to be killed; it runs until then.

``python approval.py sqlite FILE`` or ``python approval.py postgres URL SCHEMA``. Each activity prints a
line when it begins, and the second one never ends.
"""

import sys
import threading

from duroxide_django import PostgresProvider, Runtime, RuntimeOptions, SqliteProvider

kind, *location = sys.argv[1:]
if kind == "sqlite":
    provider = SqliteProvider.open(*location)
else:
    provider = PostgresProvider.connect_with_schema(*location)
runtime = Runtime(provider, RuntimeOptions(worker_lock_timeout_ms=2000))


@runtime.register_activity("RequestApproval")
def request_approval(ctx, input):
    print("requested", flush=True)


@runtime.register_activity("Execute")
def execute(ctx, input):
    print("executing", flush=True)
    threading.Event().wait()  # until the process is killed


@runtime.register_orchestration("ApprovalWorkflow")
def approval_workflow(ctx, input):
    yield ctx.schedule_activity("RequestApproval", input)
    ctx.trace_info("waiting for approval...")

    approval = yield ctx.wait_for_event("approval")

    if approval["approved"]:
        yield ctx.schedule_activity("Execute", input)
        return "approved"
    else:
        return "rejected"


runtime.start()
threading.Event().wait()
