"""The pytest plugin, which pytest finds by itself: the fixture ``workflows``. It needs pytest-django."""

# Loaded in every run of pytest, also of projects without Django: nothing else is imported before the fixture is used.
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from duroxide_django.testing import Workflows


@pytest.fixture
def workflows(db: None) -> Iterator[Workflows]:
    """Run workflows in this test: ``workflows.client``, ``workflows.clock``, ``workflows.drain()``."""
    from duroxide_django.testing import Workflows, virtual_clock

    with virtual_clock() as clock:
        yield Workflows(clock)
