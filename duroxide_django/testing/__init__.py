"""Testing workflows in an ordinary TestCase: no worker, and a clock that jumps."""

from duroxide_django.testing.clock import VirtualClock, virtual_clock
from duroxide_django.testing.drain import DrainLimit, drain
from duroxide_django.testing.healthy import assert_healthy
from duroxide_django.testing.replaying import Replayed, replay
from duroxide_django.testing.simulation import NEVER, Call, MissingStub, OrchestrationRun, run_orchestration
from duroxide_django.testing.workflows import Workflows, WorkflowsMixin

__all__ = [
    "NEVER",
    "Call",
    "DrainLimit",
    "MissingStub",
    "OrchestrationRun",
    "Replayed",
    "VirtualClock",
    "Workflows",
    "WorkflowsMixin",
    "assert_healthy",
    "drain",
    "replay",
    "run_orchestration",
    "virtual_clock",
]
