"""The shop's voice in the chat: looks things up, invents nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

from . import conf
from .models import Order, Product
from .models.codes import ALPHABET, CODE_LENGTH

ORDER_CODE = re.compile(rf"\b[{ALPHABET}]{{{CODE_LENGTH}}}\b")
HELP = "Ask me about an order (with its code), one of our goods, shipping or payment. Say “bye” to leave."


def answer(text: str) -> str:
    """Return what the shop says to ``text``."""
    for attempt in (_order, _farewell, _product, _topic):
        reply = attempt(text)
        if reply is not None:
            return reply
    return HELP


def _order(text: str) -> str | None:
    found = ORDER_CODE.search(text.upper())
    if found is None:
        return None
    order = Order.objects.filter(code=found.group()).first()
    if order is None:
        return f"I know no order {found.group()}. Is there a slip of the pen in it?"
    note = f" ({order.note})" if order.note else ""
    return f"Order {order.code} of {order.total} €: {order.get_status_display().lower()}{note}."


def _farewell(text: str) -> str | None:
    return "Good-bye, and enjoy your tea!" if "bye" in text.lower() else None


def _product(text: str) -> str | None:
    words = set(re.findall(r"\w{4,}", text.lower()))
    for product in Product.objects.all()[:100]:
        if words & set(re.findall(r"[^\W\d]{4,}", product.name.lower())):
            left = product.stock or "sadly none"
            return f"{product.name}: {product.price} €, {left} left. {product.description}"
    return None


def _topic(text: str) -> str | None:
    topics: dict[str, Callable[[], str]] = {
        r"hello|hi\b|good (day|morning|evening)": lambda: f"Welcome to Lantern & Leaf! {HELP}",
        r"ship|deliver|courier|parcel": lambda: (
            "Parcels leave as soon as they are paid and packed; I know each by its order."
        ),
        r"pay|card|refund|money": lambda: (
            "We charge the card once the goods are off the shelf, and refund at once if need be."
        ),
        r"approv|limit|wait": lambda: f"Orders from {conf.approval_limit()} € on are looked at by one of us first.",
        r"thank": lambda: "You are welcome!",
    }
    return next((reply() for pattern, reply in topics.items() if re.search(pattern, text.lower())), None)
