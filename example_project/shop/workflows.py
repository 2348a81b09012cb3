"""The shop's workflows. They decide what happens next; the doing is in ``activities.py``."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Generator
from typing import Any, TypedDict

from django.db.models import TextChoices

from duroxide_django import (
    OrchestrationCancelled,
    OrchestrationContext,
    TaskFailed,
    TaskTimeout,
    orchestration,
)

from . import activities
from .models.orders import CheckoutInput, Order

#: What an orchestration is to the type checker: it yields tasks and gets their results.
Steps = Generator[Any, Any, Any]
Status = Order.Status

#: Name of the event that says whether an order may go on: ``{"approved": bool, "by": str}``.
APPROVAL_EVENT = "approval"
#: Name of the event that makes the sales report be written at once.
REPORT_NOW_EVENT = "report-now"
#: The one instance that writes the sales reports.
REPORT_INSTANCE = "nightly-report"
#: The mailbox of a conversation.
INBOX = "inbox"

DAY_MS = 24 * 60 * 60 * 1000
CHARGE_POLICY = {
    "max_attempts": 3,
    "initial_delay_ms": 500,
    "timeout_ms": 30_000,
    # The answer no stays no; only silence is worth another question.
    "give_up_on": ["CardDeclined"],
}
#: Taking back must succeed in the end: nobody else will.
UNDO_POLICY = {"max_attempts": 20, "initial_delay_ms": 500}
#: How an order ends whose activity failed with an error of the shop's.
STATUS_OF_ERROR = {
    "OutOfStock": Status.OUT_OF_STOCK,
    "PaymentError": Status.UNPAID,
}


class Step(TextChoices):
    """What the customer reads while an order is carried out."""

    TAKING = "Taking your goods off the shelf"
    CHARGING = "Charging your card"
    APPROVAL = "Waiting for our approval"
    SHIPPING = "Getting your parcel out of the house"
    UNDOING = "Taking the order back"
    SHIPPED = "On its way to you"


class Outcome(TypedDict):
    """What a Checkout returns."""

    outcome: str
    note: str


class NotSoldError(Exception):
    """The order can't go on, and nobody is to blame but the facts."""

    def __init__(self, status: Status, note: str) -> None:
        super().__init__(note)
        self.status = status
        self.note = note


@orchestration("Checkout")
def checkout(ctx: OrchestrationContext, order: CheckoutInput) -> Steps:
    """Sell an order, or take back whatever was done for it."""
    # Filled before each step begins: a step that was interrupted may have been carried out all the same.
    undo: list[Callable[..., Any]] = []
    try:
        return (yield from _sell_or_take_back(ctx, order, undo))
    except OrchestrationCancelled as cancelled:
        yield from _take_back(ctx, order, undo, NotSoldError(Status.CANCELLED, cancelled.reason))
        raise


def _sell_or_take_back(ctx: OrchestrationContext, order: CheckoutInput, undo: list[Callable[..., Any]]) -> Steps:
    try:
        yield from _sell(ctx, order, undo)
    except NotSoldError as refusal:
        return (yield from _take_back(ctx, order, undo, refusal))
    except TaskFailed as failure:
        explained = _explain(failure)
        outcome = yield from _take_back(ctx, order, undo, explained)
        if explained.status == Status.FAILED:
            raise  # Nothing the shop knows: let it be seen as a failed workflow.
        return outcome
    ctx.set_custom_status(Step.SHIPPED)
    return Outcome(outcome=Status.SHIPPED, note="")


def _sell(ctx: OrchestrationContext, order: CheckoutInput, undo: list[Callable[..., Any]]) -> Steps:
    order_id = order["order_id"]

    ctx.set_custom_status(Step.TAKING)
    undo.append(activities.put_stock_back)
    yield ctx.schedule_activity(activities.take_stock, order_id)

    ctx.set_custom_status(Step.CHARGING)
    undo.append(activities.call_payment_off)
    yield ctx.schedule_activity_with_retry(activities.charge_card, order_id, CHARGE_POLICY)

    if order["needs_approval"]:
        ctx.set_custom_status(Step.APPROVAL)
        yield from _wait_for_approval(ctx, order["approval_ms"])

    ctx.set_custom_status(Step.SHIPPING)
    undo.append(activities.unpack_parcel)
    parcel = {"order_id": order_id, "pickup_ms": order["pickup_ms"]}
    handed_over = yield ctx.schedule_sub_orchestration_with_id(shipping, f"{ctx.instance_id}-shipping", parcel)
    if not handed_over:
        raise NotSoldError(Status.CANCELLED, "Stopped before the courier came.")


def _wait_for_approval(ctx: OrchestrationContext, timeout_ms: int) -> Steps:
    first = yield ctx.race(ctx.wait_for_event(APPROVAL_EVENT), ctx.schedule_timer(timeout_ms))
    if first["index"] == 1:
        raise NotSoldError(Status.EXPIRED, "Nobody approved the order in time.")
    decision = first["value"]
    if not decision["approved"]:
        raise NotSoldError(Status.REJECTED, f"Rejected by {decision['by']}.")


def _take_back(
    ctx: OrchestrationContext, order: CheckoutInput, undo: list[Callable[..., Any]], refusal: NotSoldError
) -> Steps:
    """Undo the steps begun so far, last first, unless the parcel has left; safe to be done twice."""
    order_id = order["order_id"]
    ctx.set_custom_status(Step.UNDOING)
    stopped = yield ctx.schedule_activity_with_retry(activities.stop_order, order_id, UNDO_POLICY)
    if not stopped:
        ctx.set_custom_status(Step.SHIPPED)
        return Outcome(outcome=Status.SHIPPED, note="")
    for step in reversed(undo):
        yield ctx.schedule_activity_with_retry(step, order_id, UNDO_POLICY)
    closing = {"order_id": order_id, "status": refusal.status, "note": refusal.note}
    yield ctx.schedule_activity_with_retry(activities.close_order, closing, UNDO_POLICY)
    ctx.set_custom_status(refusal.status.label)
    return Outcome(outcome=refusal.status, note=refusal.note)


def _explain(failure: TaskFailed) -> NotSoldError:
    """Tell how an order ends whose task failed so."""
    if isinstance(failure, TaskTimeout):
        return NotSoldError(Status.UNPAID, "The payment company took too long.")
    statuses = (STATUS_OF_ERROR[name] for name in failure.error_types if name in STATUS_OF_ERROR)
    message = str(failure).partition(": ")[2] or str(failure)
    return NotSoldError(next(statuses, Status.FAILED), message)


@orchestration("Shipping")
def shipping(ctx: OrchestrationContext, parcel: dict[str, int]) -> Steps:
    """Pack a parcel and hand it to the courier; returns whether that came about."""
    ctx.set_custom_status("Packing")
    tracking_code = yield ctx.schedule_activity(activities.pack_parcel, parcel["order_id"])
    ctx.set_custom_status(f"Parcel {tracking_code} waits for the courier")
    yield ctx.schedule_timer(parcel["pickup_ms"])
    handed_over = yield ctx.schedule_activity(activities.hand_parcel_over, parcel["order_id"])
    ctx.set_custom_status(f"Parcel {tracking_code} {'has left' if handed_over else 'stays here'}")
    return handed_over


@orchestration("NightlyReport")
def nightly_report(ctx: OrchestrationContext, plan: dict[str, int]) -> Steps:
    """Write the report of yesterday each night, or today's when asked; then begin anew, with no history."""
    now = yield ctx.utc_now()
    due = next_run(now, plan["hour"])
    ctx.set_custom_status(f"Next report at {_moment(due):%Y-%m-%d %H:%M} UTC")
    first = yield ctx.race(ctx.schedule_timer(due - now), ctx.wait_for_event(REPORT_NOW_EVENT))
    if first["index"] == 0:
        day = _moment(due).date() - dt.timedelta(days=1)
    else:
        asked = yield ctx.utc_now()
        day = _moment(asked).date()
    yield ctx.schedule_activity_with_retry(activities.write_sales_report, day.isoformat(), UNDO_POLICY)
    return (yield ctx.continue_as_new(plan))


def next_run(now_ms: int, hour: int) -> int:
    """Return the next moment after ``now_ms`` at which it is ``hour`` o'clock UTC."""
    midnight = now_ms - now_ms % DAY_MS
    today = midnight + hour * 60 * 60 * 1000
    return today if today > now_ms else today + DAY_MS


def _moment(epoch_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(epoch_ms / 1000, tz=dt.UTC)


@orchestration("ChatBot")
def chat_bot(ctx: OrchestrationContext, conversation: str) -> Steps:
    """Answer the next message, then begin anew; what came in meanwhile waits in the mailbox."""
    message = json.loads((yield ctx.dequeue_event(INBOX)))
    question = {"conversation": conversation, "seq": message["seq"], "text": message["text"]}
    response = yield ctx.schedule_activity(activities.generate, question)
    ctx.set_custom_status(json.dumps({"state": "replied", "response": response, "seq": message["seq"]}))
    if "bye" in message["text"].lower():
        return f"Done after {message['seq']} msgs"
    return (yield ctx.continue_as_new(conversation))
