"""What a committed turn or an accepted completion adds to the counters, and the line that says an instance failed."""

from __future__ import annotations

import logging

from duroxide_django.engine import messages
from duroxide_django.engine.failures import CONFIGURATION, INFRASTRUCTURE, POISON, Failure
from duroxide_django.engine.outcome import Completed, ContinuedAsNew, Failed
from duroxide_django.logs import runtime_log
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.storage.activities import Finished
from duroxide_django.storage.commits import Commit

_ORCHESTRATION_ERRORS = {
    INFRASTRUCTURE: "orch_infrastructure_errors",
    CONFIGURATION: "orch_configuration_errors",
    POISON: "orch_poison",
}
_ACTIVITY_ERRORS = {
    INFRASTRUCTURE: "activity_infra_errors",
    CONFIGURATION: "activity_config_errors",
    POISON: "activity_poison",
}


def count_turn(metrics: Metrics, commit: Commit) -> None:
    """Count a committed turn."""
    outcome = commit.result.outcome
    if commit.input is not None and commit.execution_id == 1:
        metrics.add("orch_starts")
    if commit.result.children:
        metrics.add("suborchestration_calls", len(commit.result.children))
    if isinstance(outcome, Completed):
        metrics.add("orch_completions")
    elif isinstance(outcome, ContinuedAsNew):
        metrics.add("orch_continue_as_new")
    elif isinstance(outcome, Failed):
        metrics.add("orch_failures")
        metrics.add(_ORCHESTRATION_ERRORS.get(outcome.failure.category, "orch_application_errors"))
        _log_failure(commit, outcome.failure)


def _log_failure(commit: Commit, failure: Failure) -> None:
    runtime_log.log(
        logging.INFO if failure.is_cancelled else logging.WARNING,
        "Instance cancelled" if failure.is_cancelled else "Instance failed",
        error_type=failure.error_types[0] if failure.error_types else failure.kind,
        instance_id=commit.claimed.instance_id,
        execution_id=commit.execution_id,
        orchestration_name=commit.claimed.name,
        orchestration_version=commit.version,
    )


def count_activity(metrics: Metrics, finished: Finished) -> None:
    """Count a completion that was accepted."""
    if finished.kind == messages.ACTIVITY_COMPLETED:
        metrics.add("activity_success")
    else:
        category = Failure.from_json(finished.payload).category
        metrics.add(_ACTIVITY_ERRORS.get(category, "activity_app_errors"))
