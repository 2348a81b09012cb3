"""KV entries and sessions."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from duroxide_django.engine.limits import MAX_NAME_CHARS
from duroxide_django.models.instance import Instance


class KeyValue(models.Model):
    """A KV entry: the live value, and the value at the start of the execution that changed it last.

    Replay of execution *n* starts from ``value`` if an earlier execution wrote it, else from ``base_value``;
    no row has to be touched when an execution ends (spec 11.3).
    """

    pk = models.CompositePrimaryKey("instance", "key")
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="key_values"
    )
    key = models.CharField(_("key"), max_length=MAX_NAME_CHARS)
    value = models.TextField(_("value"), null=True, help_text=_("Empty (NULL): removed."))
    updated_ms = models.BigIntegerField(_("updated"))
    execution_id = models.IntegerField(help_text=_("The execution that wrote the live value."))
    base_value = models.TextField(null=True)
    base_updated_ms = models.BigIntegerField(null=True)

    class Meta:
        db_table = "duroxide_kv"
        verbose_name = _("KV entry")
        verbose_name_plural = _("KV entries")

    def __str__(self) -> str:
        return self.key


class Session(models.Model):
    """Which worker owns a session, and until when."""

    session_id = models.CharField(_("session"), max_length=MAX_NAME_CHARS, primary_key=True)
    owner = models.CharField(_("owner"), max_length=MAX_NAME_CHARS)
    lease_until_ms = models.BigIntegerField(_("leased until"))
    last_activity_ms = models.BigIntegerField(_("last activity"))

    class Meta:
        db_table = "duroxide_session"
        verbose_name = _("session")
        verbose_name_plural = _("sessions")

    def __str__(self) -> str:
        return self.session_id
