"""What the shop sells."""

from __future__ import annotations

from django.db import models
from django.db.models import F

from example_project.shop.exceptions import OutOfStock


class Product(models.Model):
    """Something on the shelf."""

    sku = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["price", "name"]

    def __str__(self) -> str:
        return self.name

    def take(self, quantity: int) -> None:
        """Take ``quantity`` pieces off the shelf; raise OutOfStock, having taken none, if there are fewer."""
        # The condition is part of the UPDATE, so two orders can't both take the last piece.
        taken = Product.objects.filter(pk=self.pk, stock__gte=quantity).update(stock=F("stock") - quantity)
        if not taken:
            raise OutOfStock(f"There are fewer than {quantity} of “{self.name}” left.")

    def put_back(self, quantity: int) -> None:
        """Put ``quantity`` pieces back on the shelf."""
        Product.objects.filter(pk=self.pk).update(stock=F("stock") + quantity)
