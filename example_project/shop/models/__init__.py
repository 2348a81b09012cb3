"""What the shop remembers."""

from .catalogue import Product
from .chat import ChatMessage, Conversation
from .orders import Order, OrderLine, Shipment
from .payments import Card, ChargeAttempt, Payment
from .reports import SalesReport

__all__ = [
    "Card",
    "ChargeAttempt",
    "ChatMessage",
    "Conversation",
    "Order",
    "OrderLine",
    "Payment",
    "Product",
    "SalesReport",
    "Shipment",
]
