"""The shop's settings, read when they are needed."""

from decimal import Decimal

from django.conf import settings


def approval_limit() -> Decimal:
    """Return the sum from which on an order needs somebody's approval."""
    return Decimal(getattr(settings, "SHOP_APPROVAL_LIMIT", 200))


def approval_ms() -> int:
    """Return how long an order waits for approval."""
    return round(float(getattr(settings, "SHOP_APPROVAL_MINUTES", 30)) * 60_000)


def pickup_ms() -> int:
    """Return how long a packed parcel waits for the courier."""
    return round(float(getattr(settings, "SHOP_PICKUP_SECONDS", 0)) * 1000)


def gateway_seconds() -> float:
    """Return how long the payment company takes to answer."""
    return float(getattr(settings, "SHOP_GATEWAY_SECONDS", 0))


def report_hour() -> int:
    """Return the hour, in UTC, at which the nightly report is written."""
    return int(getattr(settings, "SHOP_REPORT_HOUR", 2))
