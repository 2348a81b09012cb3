"""Orders and their parcels."""

from __future__ import annotations

from decimal import Decimal
from typing import TypedDict

from django.db import models
from django.urls import reverse
from django.utils import timezone

from example_project.shop import conf

from .catalogue import Product
from .codes import new_code
from .payments import Card


class CheckoutInput(TypedDict):
    """What the Checkout workflow is started with.

    An orchestration must take the same way on each replay, so whatever settings decide is decided here, once.
    """

    order_id: int
    needs_approval: bool
    approval_ms: int
    pickup_ms: int


class OrderQuerySet(models.QuerySet["Order"]):
    """Questions the shop asks about its orders."""

    def locked(self, pk: int) -> Order:
        """Return the order; nobody else may change it before this transaction ends."""
        return self.select_for_update().get(pk=pk)

    def waiting_for_approval(self) -> OrderQuerySet:
        """Return the open orders that need somebody's approval."""
        return self.filter(status=Order.Status.PLACED, needs_approval=True)


class Order(models.Model):
    """What a customer wants, and how that went."""

    class Status(models.TextChoices):
        """How far an order has come; all but the first are final."""

        PLACED = "placed", "In progress"
        SHIPPED = "shipped", "Shipped"
        OUT_OF_STOCK = "out-of-stock", "Out of stock"
        UNPAID = "unpaid", "Payment failed"
        REJECTED = "rejected", "Rejected"
        EXPIRED = "expired", "Not approved in time"
        CANCELLED = "cancelled", "Cancelled"
        FAILED = "failed", "Failed"

    code = models.CharField(max_length=20, unique=True, default=new_code, editable=False)
    customer = models.CharField(max_length=100)
    email = models.EmailField()
    card = models.CharField(max_length=20, choices=Card.choices, default=Card.GOOD)
    total = models.DecimalField(max_digits=10, decimal_places=2)
    needs_approval = models.BooleanField(default=False)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.PLACED)
    note = models.CharField(max_length=300, blank=True, help_text="why it ended as it did")
    stock_taken = models.BooleanField(default=False, help_text="its goods are off the shelf")
    stopped_at = models.DateTimeField(null=True, blank=True, help_text="from then on nothing may leave the house")
    created_at = models.DateTimeField(default=timezone.now)

    objects = OrderQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-pk"]
        indexes = [models.Index(fields=["status", "created_at"], name="shop_order_status")]
        permissions = [("approve_order", "Can approve or reject an order")]

    def __str__(self) -> str:
        return f"Order {self.code}"

    def get_absolute_url(self) -> str:
        """Return the address of the order's page."""
        return reverse("shop:order", args=[self.code])

    @property
    def instance_id(self) -> str:
        """The id of the workflow that carries this order out."""
        return f"order-{self.code}"

    @property
    def shipping_instance_id(self) -> str:
        """The id of the workflow that ships this order's parcel."""
        return f"{self.instance_id}-shipping"

    @property
    def can_be_stopped(self) -> bool:
        """Whether the order may still be cancelled: its parcel has not left, nobody stopped it before."""
        return self.status == self.Status.PLACED and self.stopped_at is None

    def workflow_input(self) -> CheckoutInput:
        """Return what the Checkout workflow is started with."""
        return {
            "order_id": self.pk,
            "needs_approval": self.needs_approval,
            "approval_ms": conf.approval_ms(),
            "pickup_ms": conf.pickup_ms(),
        }

    def take_stock(self) -> None:
        """Take all goods of this order off the shelf; a second call does nothing."""
        if self.stock_taken or self.stopped_at is not None:
            return
        # In the order of their keys: orders that want the same goods queue up instead of blocking each other.
        for line in self.lines.select_related("product").order_by("product_id"):
            line.product.take(line.quantity)
        self.stock_taken = True
        self.save(update_fields=["stock_taken"])

    def put_stock_back(self) -> None:
        """Put this order's goods back on the shelf, if they are off it."""
        if not self.stock_taken:
            return
        for line in self.lines.select_related("product").order_by("product_id"):
            line.product.put_back(line.quantity)
        self.stock_taken = False
        self.save(update_fields=["stock_taken"])

    def stop(self) -> bool:
        """Let nothing leave the house from now on; return False if the parcel already has."""
        if self.status == self.Status.SHIPPED:
            return False
        if self.stopped_at is None:
            self.stopped_at = timezone.now()
            self.save(update_fields=["stopped_at"])
        return True

    def close(self, status: str, note: str = "") -> None:
        """End this order, unless it has ended."""
        if self.status != self.Status.PLACED:
            return
        self.status = status
        self.note = note[:300]
        self.save(update_fields=["status", "note"])


class OrderLine(models.Model):
    """Some pieces of one product, at the price of the day."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="+")
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["order", "product"], name="shop_orderline_once")]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"

    @property
    def total(self) -> Decimal:
        """The price of all pieces."""
        return self.price * self.quantity


class Shipment(models.Model):
    """The parcel of an order."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="shipment")
    tracking_code = models.CharField(max_length=20, unique=True, default=new_code, editable=False)
    packed_at = models.DateTimeField(default=timezone.now)
    handed_over_at = models.DateTimeField(null=True, blank=True)
    recalled_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"Parcel {self.tracking_code}"

    @property
    def state(self) -> str:
        """Where the parcel is, in words."""
        if self.handed_over_at is not None:
            return "on its way"
        return "unpacked again" if self.recalled_at is not None else "packed"
