"""How far an order's workflow has come, as the order page shows it."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass

from duroxide_django import Client

from .models import Order
from .workflows import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """One custom status that a workflow has shown."""

    text: str
    at: dt.datetime
    of_parcel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An order together with the state of its workflow."""

    order: Order
    workflow_status: str
    custom_status: str
    steps: list[StepTaken]

    @property
    def finished(self) -> bool:
        """Whether the workflow has ended, well or not, or has been deleted since."""
        return self.workflow_status in ("Completed", "Failed", "NotFound")

    @property
    def waits_for_approval(self) -> bool:
        """Whether somebody has to say yes or no now."""
        return not self.finished and self.custom_status == Step.APPROVAL and self.order.can_be_stopped

    @property
    def can_be_cancelled(self) -> bool:
        """Whether the customer may still change their mind."""
        return not self.finished and self.order.can_be_stopped

    @property
    def headline(self) -> str:
        """What to tell the customer in one line."""
        if self.finished:
            return self.order.get_status_display()
        return self.custom_status or "We have your order"

    @property
    def version(self) -> str:
        """A text that changes whenever the page has something new to show."""
        facts = (self.workflow_status, self.order.status, self.order.can_be_stopped, len(self.steps))
        return "-".join(str(fact) for fact in facts)


def of_order(order: Order) -> Progress:
    """Return the progress of an order."""
    client = Client()
    # The workflow first, then the order: a finished workflow never has an unfinished order beside it.
    result = client.get_status(order.instance_id)
    order.refresh_from_db()
    steps = _steps(client, order.instance_id, of_parcel=False)
    steps += _steps(client, order.shipping_instance_id, of_parcel=True)
    return Progress(
        order=order,
        workflow_status=result.status,
        custom_status=result.custom_status or "",
        steps=sorted(steps, key=lambda step: step.at),
    )


def _steps(client: Client, instance_id: str, *, of_parcel: bool) -> list[StepTaken]:
    """Return the custom statuses that an instance has shown, out of its history."""
    steps = []
    for event in client.read_execution_history(instance_id, 1):
        text = json.loads(event.data or "{}").get("status") if event.kind == "CustomStatusUpdated" else None
        if text:
            at = dt.datetime.fromtimestamp(event.timestamp_ms / 1000, tz=dt.UTC)
            steps.append(StepTaken(text=text, at=at, of_parcel=of_parcel))
    return steps
