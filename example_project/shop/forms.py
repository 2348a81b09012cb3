"""What visitors fill in."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.forms.boundfield import BoundField

from . import conf
from .models import Order, OrderLine, Product

MAX_QUANTITY = 99


class OrderForm(forms.ModelForm):  # type: ignore[type-arg]
    """The shop's only form: how many of what, for whom, paid by which card."""

    class Meta:
        model = Order
        fields = ["customer", "email", "card"]
        labels = {"customer": "Your name", "email": "E-mail", "card": "Test card"}
        widgets = {
            "customer": forms.TextInput(attrs={"autocomplete": "name"}),
            "email": forms.EmailInput(attrs={"autocomplete": "email"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})
        self.products = list(Product.objects.all())
        for product in self.products:
            self.fields[quantity_name(product)] = forms.IntegerField(
                label=f"How many of {product.name}?",
                required=False,
                min_value=0,
                max_value=MAX_QUANTITY,
                widget=forms.NumberInput(
                    attrs={"inputmode": "numeric", "placeholder": "0", "data-price": product.price}
                ),
            )

    def shelf(self) -> list[tuple[Product, BoundField]]:
        """Return each product with the field for its quantity."""
        return [(product, self[quantity_name(product)]) for product in self.products]

    def clean(self) -> dict[str, Any]:
        """Refuse an order of nothing."""
        cleaned = super().clean() or {}
        self.wanted = [
            (product, quantity) for product in self.products if (quantity := cleaned.get(quantity_name(product)))
        ]
        if not self.wanted and not any(quantity_name(product) in self.errors for product in self.products):
            raise forms.ValidationError("Choose at least one thing from the shelf.")
        return cleaned

    def save(self, commit: bool = True) -> Order:
        """Write the order down with its lines; call it inside a transaction."""
        order: Order = super().save(commit=False)
        order.total = sum((product.price * quantity for product, quantity in self.wanted), Decimal())
        order.needs_approval = order.total >= conf.approval_limit()
        order.save()
        OrderLine.objects.bulk_create(
            OrderLine(order=order, product=product, quantity=quantity, price=product.price)
            for product, quantity in self.wanted
        )
        return order


class MessageForm(forms.Form):
    """One chat message."""

    text = forms.CharField(
        label="Your message",
        max_length=500,
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "Ask about your order, a tea, shipping…"}),
    )


def quantity_name(product: Product) -> str:
    """Return the name of the field for the quantity of ``product``."""
    return f"quantity_{product.pk}"
