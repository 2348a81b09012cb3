"""Workflows: client, clock and drain() in one; as a mixin for unittest, and (in pytest_plugin) as a fixture."""

from __future__ import annotations

import unittest
import uuid
from typing import TYPE_CHECKING, Any

from duroxide_django.client import Client
from duroxide_django.engine.registry import Registry
from duroxide_django.results import OrchestrationResult
from duroxide_django.testing.clock import VirtualClock, virtual_clock
from duroxide_django.testing.drain import drain
from duroxide_django.testing.healthy import assert_healthy

if TYPE_CHECKING:
    from duroxide_django.engine.context import Named


class Workflows:
    """What a test of workflows needs.

    Attributes:
        client: a ``Client``.
        clock: the ``VirtualClock``, which stands still until a test, or ``drain()``, moves it.
    """

    def __init__(self, clock: VirtualClock, *, using: str | None = None, registry: Registry | None = None) -> None:
        """
        Args:
            clock: from ``virtual_clock()``.
            using: database alias; None: the setting DATABASE.
            registry: the functions to serve; None: the project's.
        """
        self.client = Client(using=using)
        self.clock = clock
        self._using = using
        self._registry = registry

    def run(
        self, name: Named, input: Any = None, *, instance_id: str | None = None, **options: Any
    ) -> OrchestrationResult:
        """Start an orchestration, drain, and return how it stands.

        Args:
            name: its name, or its decorated function.
            input: any JSON-able value.
            instance_id: None: a new one.
            options: of ``drain()``.
        """
        started = self.client.start_orchestration(instance_id or f"test-{uuid.uuid4()}", name, input)
        self.drain(**options)
        return self.client.get_status(started)

    def drain(self, **options: Any) -> int:
        """Run everything that is due, as the function of this name does; its other arguments are the options."""
        return drain(using=self._using, registry=self._registry, **options)

    def assert_healthy(self) -> None:
        """Fail unless every instance that hasn't ended has a way forward."""
        assert_healthy(self._using)


class WorkflowsMixin(unittest.TestCase):
    """Gives a Django test case ``self.workflows``: ``class CheckoutTests(WorkflowsMixin, TestCase)``.

    Attributes:
        workflows_using: database alias; None: the setting DATABASE.
    """

    workflows_using: str | None = None
    workflows: Workflows

    def setUp(self) -> None:
        """See TestCase."""
        super().setUp()
        self.workflows = Workflows(self.enterContext(virtual_clock()), using=self.workflows_using)
