"""What can go wrong in a shop.

::

    ShopError(Exception)
    ├── OutOfStock            there are fewer pieces than were ordered
    └── PaymentError
        ├── CardDeclined      the answer is no: asking again changes nothing
        └── GatewayTimeout    there was no answer: asking again may help
"""


class ShopError(Exception):
    """Base of the shop's errors; do not raise it directly."""


class OutOfStock(ShopError):
    """There are fewer pieces than were ordered."""


class PaymentError(ShopError):
    """The payment company did not take the money; do not raise it directly."""


class CardDeclined(PaymentError):
    """The payment company refused the card."""


class GatewayTimeout(PaymentError):
    """The payment company did not answer."""
