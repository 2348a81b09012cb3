"""Fill the shelf with sample data; running it again does no harm."""

from __future__ import annotations

import contextlib
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from duroxide_django import Client, InstanceAlreadyExists
from example_project.shop import conf
from example_project.shop.catalogue import SAMPLES
from example_project.shop.models import Product
from example_project.shop.workflows import REPORT_INSTANCE


class Command(BaseCommand):
    """Fill the shelf, start the nightly report and, if asked, create a user for the desk and the admin."""

    help = "Fill the shelf with sample data and start the nightly report. Run again, it fills the shelf up."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the demo user's name and password."""
        parser.add_argument(
            "--demo-user", metavar="NAME", help="create a superuser, or give an existing one the password"
        )
        parser.add_argument("--demo-password", metavar="PASSWORD", help="the demo user's password")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write everything, or nothing."""
        if options["demo_user"] and not (settings.DEBUG and options["demo_password"]):
            raise CommandError(
                "--demo-user needs --demo-password, and DEBUG: never give a real shop a well-known user."
            )
        with transaction.atomic():
            fill_shelf()
            start_nightly_report()
            if options["demo_user"]:
                create_demo_user(options["demo_user"], options["demo_password"])
        if options["verbosity"]:
            self.stdout.write(f"{len(SAMPLES)} products are on the shelf.")


def fill_shelf() -> None:
    """Create the sample products; of existing ones only the stock rises to what it should be."""
    for sample in SAMPLES:
        defaults = {
            "name": sample.name,
            "description": sample.description,
            "price": sample.price,
            "stock": sample.stock,
        }
        product, created = Product.objects.get_or_create(sku=sample.sku, defaults=defaults)
        if not created:
            Product.objects.filter(pk=product.pk, stock__lt=sample.stock).update(stock=sample.stock)


def start_nightly_report() -> None:
    """Start the workflow that writes the sales reports, unless it runs."""
    plan = {"hour": conf.report_hour()}
    with contextlib.suppress(InstanceAlreadyExists):
        Client().start_orchestration(REPORT_INSTANCE, "NightlyReport", plan, on_conflict="restart_terminal")


def create_demo_user(name: str, password: str) -> None:
    """Create a superuser, or give an existing one the password."""
    user, _created = User.objects.get_or_create(username=name)
    user.is_staff = user.is_superuser = True
    user.set_password(password)
    user.save()
