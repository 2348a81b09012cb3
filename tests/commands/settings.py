"""The tests' settings for worker processes: with their workflows, and with leases that a test can wait for."""

from tests import settings as base
from tests.settings import *  # noqa: F403 - the same but for what follows

#: Without the admin and the shop: many processes start with these settings, and each app costs them time.
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "duroxide_django",
    "tests.commands.workload",
]
ROOT_URLCONF = "tests.commands.urls"
MIDDLEWARE: list[str] = []
DUROXIDE = {
    **base.DUROXIDE,
    "ACTIVITY_LEASE_MS": base.env.int("WORKER_ACTIVITY_LEASE_MS", default=30_000),
    "SESSION_LEASE_MS": base.env.int("WORKER_SESSION_LEASE_MS", default=30_000),
    "TURN_LEASE_MS": 2_000,
    "POLL_INTERVAL_MS": base.env.int("WORKER_POLL_INTERVAL_MS", default=500),
    "SHUTDOWN_TIMEOUT_MS": base.env.int("WORKER_SHUTDOWN_TIMEOUT_MS", default=30_000),
}
# Turns whose worker is killed are taken over soon; none hangs here.
SILENCED_SYSTEM_CHECKS = [*base.SILENCED_SYSTEM_CHECKS, "duroxide_django.W010"]
