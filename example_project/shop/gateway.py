"""The payment company as the shop sees it: slow, sometimes silent, and outside the shop's transactions.

It knows a payment by the order it is for. Asking twice for the same money gives it once; calling a payment
off holds, also against a charge that is still under way. A workflow needs no more than this to never take
money twice, nor keep it.
"""

from __future__ import annotations

import time

from django.db import transaction

from . import conf
from .exceptions import CardDeclined, GatewayTimeout, PaymentError
from .models import Card, ChargeAttempt, Order, Payment


def charge(order: Order) -> None:
    """Take the order's money, unless it has been taken; raise a PaymentError if that fails."""
    time.sleep(conf.gateway_seconds())
    failure = _failure(order)
    ChargeAttempt.objects.create(order=order, answer=str(failure or "charged"))
    if failure is not None:
        raise failure
    payment = _hold(order, Payment.Status.CHARGED)
    if payment.status != Payment.Status.CHARGED:
        raise CardDeclined("The payment was called off.")


def call_off(order: Order) -> None:
    """Give the order's money back, or see to it that none is taken any more."""
    with transaction.atomic():
        payment = _hold(order, Payment.Status.VOID)
        if payment.status == Payment.Status.CHARGED:
            payment.status = Payment.Status.REFUNDED
            payment.save(update_fields=["status"])


def _hold(order: Order, status: str) -> Payment:
    """Return the order's payment; a new one gets ``status``."""
    payments = Payment.objects.select_for_update()
    with transaction.atomic():
        return payments.get_or_create(order=order, defaults={"amount": order.total, "status": status})[0]


def _failure(order: Order) -> PaymentError | None:
    if order.card == Card.DECLINED:
        return CardDeclined("The bank declined the card.")
    stumbles = order.card == Card.STUMBLES and not ChargeAttempt.objects.filter(order=order).exists()
    if stumbles or order.card == Card.SILENT:
        return GatewayTimeout("The payment company did not answer.")
    return None
