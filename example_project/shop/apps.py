"""App configuration of the shop."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The tea shop *Lantern & Leaf*."""

    name = "example_project.shop"
    label = "shop"
    verbose_name = "Lantern & Leaf"
    default_auto_field = "django.db.models.BigAutoField"
