"""The shop in the admin; what workflows write is shown, not edited."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from .models import (
    ChargeAttempt,
    ChatMessage,
    Conversation,
    Order,
    OrderLine,
    Payment,
    Product,
    SalesReport,
    Shipment,
)


class ReadOnly:
    """Look, don't touch."""

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Refuse; a workflow writes these."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Refuse; a workflow writes these."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Refuse; a workflow writes these."""
        return False


class OrderLineInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """What was ordered."""

    model = OrderLine
    extra = 0


class PaymentInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """What the payment company holds."""

    model = Payment
    extra = 0


class ChargeAttemptInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """What the payment company answered, call by call."""

    model = ChargeAttempt
    extra = 0


class ShipmentInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """The parcel."""

    model = Shipment
    extra = 0


class ChatMessageInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """What was said."""

    model = ChatMessage
    extra = 0


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The shelf."""

    list_display = ["name", "price", "stock"]
    search_fields = ["name", "sku"]


@admin.register(Order)
class OrderAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Orders, with the id of the workflow that carries each out."""

    list_display = ["code", "customer", "total", "status", "created_at", "instance_id"]
    list_filter = ["status", "needs_approval"]
    search_fields = ["code", "customer", "email"]
    date_hierarchy = "created_at"
    inlines = [OrderLineInline, ChargeAttemptInline, PaymentInline, ShipmentInline]


@admin.register(SalesReport)
class SalesReportAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """What was sold, day by day."""

    list_display = ["day", "orders", "shipped", "revenue", "written_at"]


@admin.register(Conversation)
class ConversationAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """What customers asked."""

    list_display = ["code", "created_at", "instance_id"]
    inlines = [ChatMessageInline]
