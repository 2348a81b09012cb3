"""The history: what every execution did, append only."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from duroxide_django.models.instance import Instance


class HistoryEvent(models.Model):
    """One recorded event of one execution."""

    pk = models.CompositePrimaryKey("instance", "execution_id", "event_id")
    instance = models.ForeignKey(
        Instance, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="events"
    )
    timestamp_ms = models.BigIntegerField(_("time"))
    execution_id = models.IntegerField()
    event_id = models.IntegerField()
    source_event_id = models.IntegerField(null=True)
    kind = models.CharField(_("kind"), max_length=40)
    data = models.TextField(_("data"), help_text=_("JSON; payloads inside it are JSON text."))

    class Meta:
        db_table = "duroxide_history"
        verbose_name = _("history event")
        verbose_name_plural = _("history events")

    def __str__(self) -> str:
        return f"{self.event_id} {self.kind}"
