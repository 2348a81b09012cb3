"""Instances and their executions."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from duroxide_django.engine.limits import MAX_INSTANCE_ID_CHARS, MAX_NAME_CHARS
from duroxide_django.engine.versions import MAX_VERSION_CHARS


class InstanceStatus(models.TextChoices):
    """How an instance stands.

    One whose first turn is not committed yet is Running too, with 0 as its last event: people see it as *Pending*. A
    status that changed with the first turn would have each index of the table get a new entry for it on PostgreSQL.
    """

    RUNNING = "Running", _("Running")
    COMPLETED = "Completed", _("Completed")
    FAILED = "Failed", _("Failed")


class ExecutionStatus(models.TextChoices):
    """How one execution of an instance stands."""

    RUNNING = "Running", _("Running")
    COMPLETED = "Completed", _("Completed")
    FAILED = "Failed", _("Failed")
    CONTINUED_AS_NEW = "ContinuedAsNew", _("Continued as new")


class Instance(models.Model):
    """One run of an orchestration. The row is one *life*: a deleted id that is started again gets a new row."""

    # What a turn changes comes last, here and in Execution: of an update, PostgreSQL logs what lies between the first
    # byte that changes and the last.
    id = models.BigAutoField(primary_key=True)
    created_ms = models.BigIntegerField(_("created"))
    parent = models.ForeignKey(
        "self", models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="children"
    )
    parent_execution_id = models.IntegerField(null=True)
    parent_event_id = models.IntegerField(null=True)
    instance_id = models.CharField(_("instance id"), max_length=MAX_INSTANCE_ID_CHARS)
    name = models.CharField(_("orchestration"), max_length=MAX_NAME_CHARS)
    engine = models.SmallIntegerField(
        db_default=1, help_text=_("Number of the engine that began the current execution: older ones leave it alone.")
    )
    custom_status = models.TextField(_("custom status"), null=True)
    blocked = models.TextField(null=True, help_text=_("JSON: why the instance can't go on."))
    current_execution_id = models.IntegerField(_("current execution"), default=1)
    custom_status_version = models.IntegerField(default=0)
    last_event_id = models.IntegerField(default=0, help_text=_("Highest event id of the current execution."))
    turns = models.IntegerField(default=0, help_text=_("Committed turns."))
    # A count would not do: a store that was set back, as by a failover to a standby that lagged, comes to it again.
    mark = models.BigIntegerField(
        db_default=0,
        help_text=_("Random, new with each committed turn: tells whether a live execution is up to date."),
    )
    attempts = models.IntegerField(default=0, help_text=_("Turns begun since the last one that was committed."))
    updated_ms = models.BigIntegerField(_("updated"))
    lease_until_ms = models.BigIntegerField(default=0)
    completed_ms = models.BigIntegerField(_("completed"), null=True)
    # The turn lease. Not indexed, so that taking and releasing it stays a HOT update on PostgreSQL.
    lease_token = models.BigIntegerField(null=True)
    is_cancelled = models.BooleanField(_("cancelled"), default=False)
    status = models.CharField(
        _("status"), max_length=10, choices=InstanceStatus.choices, default=InstanceStatus.RUNNING
    )
    version = models.CharField(
        _("version"),
        max_length=MAX_VERSION_CHARS,
        null=True,
        help_text=_("Exact once the first turn has run."),
    )

    class Meta:
        db_table = "duroxide_instance"
        verbose_name = _("instance")
        verbose_name_plural = _("instances")
        permissions = [
            ("start_instance", _("Can start an instance")),
            ("cancel_instance", _("Can cancel an instance")),
            ("raise_event", _("Can raise an event for an instance")),
            ("enqueue_message", _("Can enqueue a message for an instance")),
            ("prune_instance", _("Can prune executions of an instance")),
            ("retry_instance", _("Can retry a failed instance")),
            ("rewind_instance", _("Can rewind an instance to an event")),
            ("fork_instance", _("Can fork an instance")),
            ("pause_instance", _("Can pause an instance")),
            ("resume_instance", _("Can resume an instance")),
            ("retry_activity", _("Can let a waiting activity or timer be due now")),
            ("complete_activity", _("Can complete a pending activity by hand")),
            ("fail_activity", _("Can let a pending activity fail by hand")),
            ("view_payloads", _("Can view payloads")),
        ]
        constraints = [
            # With these operators PostgreSQL's index finds ids by their beginning too, in any collation. A unique field
            # would have two indexes.
            models.UniqueConstraint(
                fields=["instance_id"], name="duroxide_instance_instance_id", opclasses=("varchar_pattern_ops",)
            ),
        ]
        indexes = [
            models.Index(fields=["name", "id"], name="duroxide_instance_name"),
            models.Index(fields=["id"], name="duroxide_instance_blocked", condition=models.Q(blocked__isnull=False)),
            models.Index(
                fields=["parent", "id"], name="duroxide_instance_child", condition=models.Q(parent__isnull=False)
            ),
            # One for each state but the common one, in place of one on the status: a partial index costs an entry only
            # when an instance comes into its state. No column of any index, and none of their conditions, may change
            # before the end (the version does), or that turn writes a new entry into all of them on PostgreSQL.
            models.Index(
                fields=["id"], name="duroxide_instance_open", condition=models.Q(status=InstanceStatus.RUNNING)
            ),
            models.Index(
                fields=["completed_ms", "status"],
                name="duroxide_instance_ended",
                condition=models.Q(completed_ms__isnull=False),
            ),
            models.Index(
                fields=["id"],
                name="duroxide_instance_failed",
                condition=models.Q(status=InstanceStatus.FAILED, is_cancelled=False),
            ),
            models.Index(fields=["id"], name="duroxide_instance_cancelled", condition=models.Q(is_cancelled=True)),
        ]

    def __str__(self) -> str:
        return self.instance_id


class Execution(models.Model):
    """One life span of an instance between two continue-as-news."""

    pk = models.CompositePrimaryKey("instance", "execution_id")
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="executions"
    )
    started_ms = models.BigIntegerField(_("started"))
    execution_id = models.IntegerField(_("execution"))
    input = models.TextField(_("input"))
    version = models.CharField(_("version"), max_length=MAX_VERSION_CHARS)
    event_count = models.IntegerField(_("events"), default=0)
    status = models.CharField(_("status"), max_length=15, choices=ExecutionStatus.choices)
    output = models.TextField(_("output"), null=True, help_text=_("The result, or the next execution's input."))
    error = models.TextField(_("error"), null=True, help_text=_("JSON: the failure details."))
    completed_ms = models.BigIntegerField(_("completed"), null=True)

    class Meta:
        db_table = "duroxide_execution"
        verbose_name = _("execution")
        verbose_name_plural = _("executions")

    def __str__(self) -> str:
        return f"{self.instance_id}/{self.execution_id}"
