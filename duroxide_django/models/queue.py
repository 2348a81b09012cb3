"""The two hot queues and the mailboxes. Rows are deleted when their work is committed."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from duroxide_django.engine.limits import MAX_NAME_CHARS, MAX_TAG_NAME_BYTES
from duroxide_django.models.instance import Instance


class Message(models.Model):
    """Something an instance must react to (the orchestrator queue)."""

    id = models.BigAutoField(primary_key=True)
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="messages"
    )
    kind = models.CharField(_("kind"), max_length=20)
    execution_id = models.IntegerField(null=True)
    event_id = models.IntegerField(null=True)
    name = models.CharField(_("name"), max_length=MAX_NAME_CHARS, null=True)
    payload = models.TextField(_("payload"))
    force = models.BooleanField(default=False)
    due_ms = models.BigIntegerField(
        _("due"), help_text=_("When it counts as having arrived; orders a batch and never changes.")
    )
    visible_at_ms = models.BigIntegerField(
        _("visible at"),
        help_text=_("When a worker may take it; later than due while its instance is blocked."),
    )

    class Meta:
        db_table = "duroxide_message"
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        indexes = [
            models.Index(fields=["visible_at_ms", "id"], name="duroxide_message_visible"),
        ]
        # On PostgreSQL there is none on the id alone: look for messages by both.
        constraints = [models.UniqueConstraint(fields=["instance", "id"], name="duroxide_message_instance")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name or ''}".strip()


class ActivityTask(models.Model):
    """An activity to run (the worker queue)."""

    id = models.BigAutoField(primary_key=True)
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="activity_tasks"
    )
    execution_id = models.IntegerField()
    event_id = models.IntegerField(help_text=_("The ActivityScheduled event."))
    name = models.CharField(_("activity"), max_length=MAX_NAME_CHARS)
    input = models.TextField(_("input"))
    tag = models.CharField(_("tag"), max_length=MAX_TAG_NAME_BYTES, default="", help_text=_("Empty: untagged."))
    session_id = models.CharField(_("session"), max_length=MAX_NAME_CHARS, null=True)
    retry = models.TextField(
        null=True,
        help_text=_("JSON: attempt, max_attempts and first event of a retry loop, timeout_ms, heartbeat_timeout_ms."),
    )
    visible_at_ms = models.BigIntegerField(_("visible at"))
    start_by_ms = models.BigIntegerField(_("start by"), null=True)
    deadline_ms = models.BigIntegerField(
        _("deadline"), null=True, help_text=_("When the attempt that runs now times out; noted about a second later.")
    )
    lease_token = models.BigIntegerField(null=True)
    lease_until_ms = models.BigIntegerField(default=0)
    attempts = models.IntegerField(_("fetched"), default=0)
    interruptions = models.IntegerField(
        _("interruptions"), db_default=0, help_text=_("Deliveries in a row that a database's failure ended.")
    )
    losses = models.IntegerField(
        _("losses"), db_default=0, help_text=_("Deliveries that ended without a word of their worker.")
    )
    last_error = models.TextField(_("last error"), null=True)
    progress = models.TextField(_("progress"), null=True, help_text=_("JSON: the activity's last heartbeat."))
    worker = models.CharField(_("worker"), max_length=MAX_NAME_CHARS, null=True)

    class Meta:
        db_table = "duroxide_activity_task"
        verbose_name = _("activity task")
        verbose_name_plural = _("activity tasks")
        indexes = [
            models.Index(fields=["tag", "visible_at_ms", "id"], name="duroxide_task_fetch"),
            models.Index(
                fields=["start_by_ms"],
                name="duroxide_task_start_by",
                condition=models.Q(start_by_ms__isnull=False),
            ),
        ]
        # On PostgreSQL there is none on the id alone: look for tasks by both.
        constraints = [models.UniqueConstraint(fields=["instance", "id"], name="duroxide_task_instance")]

    def __str__(self) -> str:
        return f"{self.name}#{self.event_id}"


class QueueMessage(models.Model):
    """A message in an instance's event queue that no subscription has taken yet.

    Its id is the id that it had as a Message, so ids give the order of arrival.
    """

    id = models.BigIntegerField(primary_key=True)
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="queue_messages"
    )
    queue = models.CharField(_("queue"), max_length=MAX_NAME_CHARS)
    data = models.TextField(_("data"))
    enqueued_ms = models.BigIntegerField(_("enqueued"))

    class Meta:
        db_table = "duroxide_queue_message"
        verbose_name = _("queue message")
        verbose_name_plural = _("queue messages")
        indexes = [models.Index(fields=["instance", "id"], name="duroxide_mail_instance")]

    def __str__(self) -> str:
        return f"{self.queue}#{self.id}"
