"""What the workflows do to the world, one small step each.

An atomic activity changes the database exactly once. The others may run again when a worker dies half-way, so
each of them can be repeated without harm.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.utils import timezone

from duroxide_django import ActivityContext, activity

from . import assistant, gateway
from .models import ChatMessage, Conversation, Order, SalesReport, Shipment


@activity("TakeStock", atomic=True)
def take_stock(ctx: ActivityContext, order_id: int) -> None:
    """Take the goods of an order off the shelf; all or none."""
    Order.objects.locked(order_id).take_stock()


@activity("PutStockBack", atomic=True)
def put_stock_back(ctx: ActivityContext, order_id: int) -> None:
    """Put the goods of an order back on the shelf, if they are off it."""
    Order.objects.locked(order_id).put_stock_back()


@activity("ChargeCard")
def charge_card(ctx: ActivityContext, order_id: int) -> None:
    """Ask the payment company for the money; it is not part of our transactions, but never takes it twice."""
    gateway.charge(Order.objects.get(pk=order_id))


@activity("CallPaymentOff")
def call_payment_off(ctx: ActivityContext, order_id: int) -> None:
    """Give the money back, or see to it that none is taken any more."""
    gateway.call_off(Order.objects.get(pk=order_id))


@activity("StopOrder", atomic=True)
def stop_order(ctx: ActivityContext, order_id: int) -> bool:
    """Let nothing leave the house from now on; False: the parcel already has."""
    return Order.objects.locked(order_id).stop()


@activity("CloseOrder", atomic=True)
def close_order(ctx: ActivityContext, closing: dict[str, Any]) -> None:
    """Write down how an order ended."""
    Order.objects.locked(closing["order_id"]).close(closing["status"], closing["note"])


@activity("PackParcel", atomic=True)
def pack_parcel(ctx: ActivityContext, order_id: int) -> str:
    """Pack the goods of an order and return the parcel's tracking code."""
    order = Order.objects.locked(order_id)
    return Shipment.objects.get_or_create(order=order)[0].tracking_code


@activity("HandParcelOver", atomic=True)
def hand_parcel_over(ctx: ActivityContext, order_id: int) -> bool:
    """Give the parcel to the courier; False: the order was stopped, the parcel stays."""
    order = Order.objects.locked(order_id)
    if order.stopped_at is not None:
        return False
    Shipment.objects.filter(order=order).update(handed_over_at=timezone.now())
    order.close(Order.Status.SHIPPED)
    return True


@activity("UnpackParcel", atomic=True)
def unpack_parcel(ctx: ActivityContext, order_id: int) -> None:
    """Unpack the parcel of an order, if there is one and it is still here."""
    Shipment.objects.filter(order_id=order_id, handed_over_at=None).update(recalled_at=timezone.now())


@activity("WriteSalesReport", atomic=True)
def write_sales_report(ctx: ActivityContext, day: str) -> str:
    """Count the orders of a day and keep the figures."""
    return str(SalesReport.write(dt.date.fromisoformat(day)))


@activity("Generate", atomic=True)
def generate(ctx: ActivityContext, message: dict[str, Any]) -> str:
    """Answer a chat message and return the answer."""
    conversation = Conversation.objects.get(code=message["conversation"])
    text = assistant.answer(message["text"])
    ChatMessage.objects.create(conversation=conversation, seq=message["seq"], author=ChatMessage.Author.SHOP, text=text)
    return text
