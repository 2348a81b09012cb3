"""What the tests of the shop share: a filled shelf, a clock that jumps, no waiting."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import TestCase, override_settings

from duroxide_django import Client
from duroxide_django.testing import drain, virtual_clock
from example_project.shop.management.commands.seed_shop import fill_shelf
from example_project.shop.models import Card, Order, Product
from example_project.shop.workflows import DAY_MS

MINUTE_MS = 60_000
APPROVAL_MINUTES = 30
PICKUP_SECONDS = 60


@override_settings(
    ROOT_URLCONF="example_project.urls",
    SHOP_APPROVAL_LIMIT="200",
    SHOP_APPROVAL_MINUTES=APPROVAL_MINUTES,
    SHOP_GATEWAY_SECONDS=0,
    SHOP_PICKUP_SECONDS=PICKUP_SECONDS,
    SHOP_REPORT_HOUR=2,
    DUROXIDE={"DATABASE": "default", "REPLAY_EVERY_TURN": True},
)
class ShopTestCase(TestCase):
    """Workflows run in the test's own thread and transaction, at a time that the test decides.

    Each turn replays the whole history, so that code which does not do the same each time is found out.
    """

    def setUp(self) -> None:
        # Noon of today: no test runs into midnight or the hour of the nightly report.
        midnight = int(time.time() * 1000) // DAY_MS * DAY_MS
        self.clock = self.enterContext(virtual_clock(midnight + DAY_MS // 2))
        self.workflows = Client()
        fill_shelf()

    def order_form(self, card: str = Card.GOOD, **quantities: int) -> dict[str, Any]:
        """What a visitor fills in; quantities are named by the products' SKUs, ``_`` for ``-``."""
        form: dict[str, Any] = {"customer": "Ada Lovelace", "email": "ada@example.com", "card": str(card)}
        for sku, quantity in (quantities or {"earl_grey": 2}).items():
            form[f"quantity_{Product.objects.get(sku=sku.replace('_', '-')).pk}"] = quantity
        return form

    def place_order(self, card: str = Card.GOOD, **quantities: int) -> Order:
        """Order through the shop's page."""
        response = self.client.post("/orders/", self.order_form(card, **quantities))
        assert response.status_code == 302, response.content
        return Order.objects.latest("pk")

    def place_large_order(self, card: str = Card.GOOD) -> Order:
        """Order something that has to be approved, and run the workflow up to there."""
        order = self.place_order(card, samovar=1)
        self.work()
        assert self.custom_status(order) == "Waiting for our approval"
        return order

    def work(self) -> None:
        """Run everything that is due now."""
        drain(jump=False)

    def work_to_the_end(self) -> None:
        """Run everything, timers too."""
        drain()

    def decide(self, order: Order, decision: str) -> HttpResponse:
        """Approve or reject an order as somebody at the desk."""
        self.client.force_login(self.clerk())
        return self.client.post(f"/desk/orders/{order.code}/decision/", {"decision": decision})

    def clerk(self) -> User:
        """Somebody at the desk, who may approve orders."""
        clerk, _created = User.objects.get_or_create(username="grace", is_staff=True)
        clerk.user_permissions.add(Permission.objects.get(codename="approve_order"))
        return clerk

    def custom_status(self, order: Order) -> str | None:
        """What the order's workflow says it is doing."""
        return self.workflows.get_status(order.instance_id).custom_status

    def stock(self, sku: str) -> int:
        """How many pieces are on the shelf."""
        return Product.objects.get(sku=sku).stock
