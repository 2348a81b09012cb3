"""Workflows of the admin's tests, one for each way to stand."""

from __future__ import annotations

import json

from duroxide_django.engine.registry import Registry

SCRIPT = "<script>alert(1)</script>"

registry = Registry()


def charge(ctx, input):
    if input == "fail":
        raise ValueError(f"declined {SCRIPT}")
    return {"receipt": input, "token": "hush"}


def completes(ctx, input):
    return (yield ctx.schedule_activity("Charge", input))


def fails(ctx, input):
    yield ctx.schedule_activity("Charge", "fail")


def approval(ctx, input):
    ctx.set_custom_status(f"asks {SCRIPT}")
    ctx.set_kv_value(f"key {SCRIPT}", SCRIPT)
    ctx.set_kv_value("@customer", f"c-{input}" if isinstance(input, int) else "c-?")
    ctx.set_kv_value("@city", '"Köln"')
    ctx.set_kv_value("card", '{"token": "hush", "last4": "4242"}')
    yield ctx.schedule_activity("Charge", input)
    first = yield ctx.race(ctx.wait_for_event("approved"), ctx.schedule_timer(3_600_000))
    return first["index"]


def retries(ctx, input):
    yield ctx.schedule_activity_with_retry(
        "Charge", "fail", {"max_attempts": input or 5, "backoff": "fixed", "initial_delay_ms": 60_000}
    )


def family(ctx, input):
    yield ctx.schedule_sub_orchestration_with_id("Approval", f"{ctx.instance_id}-child", "x")


def patient(ctx, input):
    yield ctx.race(ctx.wait_for_event("approved"), ctx.schedule_timer(3_600_000))
    yield ctx.wait_for_event("goods")


def secretive(ctx, input):
    yield ctx.schedule_activity("Charge", input)
    yield ctx.wait_for_event("go")


def telling(ctx, input):
    ctx.set_custom_status(json.dumps({"Card": input["card"], "rest": "x" * 1_000}))
    ctx.set_kv_value("@card", input["card"])
    yield ctx.wait_for_event("go")


def looping(ctx, input):
    yield ctx.dequeue_event("inbox")
    return (yield ctx.continue_as_new(input + 1))


registry.add_activity("Charge", charge)
for name, function in {
    "Completes": completes,
    "Fails": fails,
    "Approval": approval,
    "Retries": retries,
    "Family": family,
    "Looping": looping,
    "Secretive": secretive,
    "Telling": telling,
    "Patient": patient,
}.items():
    registry.add_orchestration(name, function)
