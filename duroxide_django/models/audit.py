"""What operators did to instances."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from duroxide_django.engine.limits import MAX_INSTANCE_ID_CHARS, MAX_NAME_CHARS


class AuditRecord(models.Model):
    """One intervention. It outlives its instance: nothing refers to the instance's row."""

    id = models.BigAutoField(primary_key=True)
    at_ms = models.BigIntegerField(_("time"))
    verb = models.CharField(_("verb"), max_length=40)
    instance_id = models.CharField(_("instance id"), max_length=MAX_INSTANCE_ID_CHARS)
    actor = models.CharField(_("by"), max_length=MAX_NAME_CHARS, help_text=_("Empty: a program that did not say."))
    reason = models.TextField(_("reason"))
    details = models.TextField(_("details"), help_text=_("JSON."))

    class Meta:
        db_table = "duroxide_audit"
        verbose_name = _("audit record")
        verbose_name_plural = _("audit records")
        indexes = [models.Index(fields=["instance_id", "id"], name="duroxide_audit_instance")]

    def __str__(self) -> str:
        return f"{self.verb} {self.instance_id}"
