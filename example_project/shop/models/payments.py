"""Money: what was asked of the payment company and what it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils import timezone

if TYPE_CHECKING:
    from .orders import Order


class Card(models.TextChoices):
    """Test cards; each shows another behaviour of the payment company."""

    GOOD = "good", "4242 4242 - is charged"
    STUMBLES = "stumbles", "4000 0119 - is charged at the second attempt"
    DECLINED = "declined", "4000 0002 - is declined"
    SILENT = "silent", "4000 0341 - the payment company never answers"


class Payment(models.Model):
    """What the payment company holds about an order: at most one payment each, however often it is asked."""

    class Status(models.TextChoices):
        """Where the money is."""

        CHARGED = "charged", "charged"
        REFUNDED = "refunded", "refunded"
        VOID = "void", "called off before any money moved"

    order: models.OneToOneField[Order, Order] = models.OneToOneField(
        "shop.Order", on_delete=models.CASCADE, related_name="payment"
    )
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    status = models.CharField(max_length=20, choices=Status.choices)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.amount} {self.get_status_display()}"


class ChargeAttempt(models.Model):
    """One call to the payment company."""

    order: models.ForeignKey[Order, Order] = models.ForeignKey(
        "shop.Order", on_delete=models.CASCADE, related_name="charge_attempts"
    )
    answer = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.answer
