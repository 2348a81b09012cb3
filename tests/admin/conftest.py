"""What the admin's tests share: a staff user of chosen permissions, and workflows in every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def browser_of(backend: str) -> Callable[..., Any]:
    """Return a logged-in test browser of a staff user with these permissions."""

    def log_in(*codenames: str, superuser: bool = False) -> Any:
        from django.contrib.auth.models import Permission, User
        from django.test import Client

        user = User.objects.create_user(f"user{User.objects.count()}", is_staff=True, is_superuser=superuser)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="duroxide_django", codename__in=codenames)
        )
        assert user.user_permissions.count() == len(codenames)
        browser = Client()
        browser.force_login(user)
        return browser

    return log_in


@pytest.fixture
def browser(browser_of: Callable[..., Any]) -> Any:
    """A test browser in which a superuser is logged in."""
    return browser_of(superuser=True)


@pytest.fixture
def work(backend: str) -> Callable[[], int]:
    """Run everything that is due, with the workflows of this module."""
    from duroxide_django.testing import drain
    from tests.admin.workflows import registry

    return lambda: drain(using=backend, registry=registry, jump=False)


@pytest.fixture
def page_of(backend: str) -> Callable[..., str]:
    """Return the address of a page about an instance."""
    from django.urls import reverse

    from duroxide_django.storage import overview
    from duroxide_django.storage.database import Database

    def address(instance_id: str, page: str = "change", *args: Any) -> str:
        key = overview.key_of(Database(backend), instance_id)
        return reverse(f"admin:duroxide_django_instance_{page}", args=[key, *args])

    return address
