"""What the shop sold, day by day."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.db.models import Count, Sum
from django.utils import timezone

from .orders import Order


class SalesReport(models.Model):
    """The figures of one day (UTC)."""

    day = models.DateField(unique=True)
    orders = models.PositiveIntegerField(help_text="orders placed")
    shipped = models.PositiveIntegerField(help_text="orders shipped")
    revenue = models.DecimalField(max_digits=12, decimal_places=2, help_text="of the shipped orders")
    written_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-day"]

    def __str__(self) -> str:
        return f"{self.day}: {self.revenue}"

    @classmethod
    def write(cls, day: dt.date) -> SalesReport:
        """Count the orders of ``day`` and keep the figures, in place of older ones of that day."""
        begin = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
        placed = Order.objects.filter(created_at__gte=begin, created_at__lt=begin + dt.timedelta(days=1))
        sold = placed.filter(status=Order.Status.SHIPPED).aggregate(count=Count("pk"), revenue=Sum("total"))
        figures = {"orders": placed.count(), "shipped": sold["count"], "revenue": sold["revenue"] or 0}
        report, _created = cls.objects.update_or_create(day=day, defaults={**figures, "written_at": timezone.now()})
        return report
