"""Worker processes, as they announce themselves. For people only: nothing joins it for correctness."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from duroxide_django.engine.limits import MAX_NAME_CHARS


class Worker(models.Model):
    """One running runtime."""

    id = models.CharField(_("worker"), max_length=MAX_NAME_CHARS, primary_key=True)
    host = models.CharField(_("host"), max_length=MAX_NAME_CHARS)
    pid = models.IntegerField(_("process id"))
    started_ms = models.BigIntegerField(_("started"))
    beat_ms = models.BigIntegerField(_("last beat"))
    options = models.TextField(_("options"), help_text=_("JSON."))
    handlers = models.TextField(
        _("handlers"), help_text=_("JSON: activities, orchestrations with versions, tag filter.")
    )
    slots_used = models.IntegerField(_("slots in use"), default=0)
    draining = models.BooleanField(_("draining"), default=False)

    class Meta:
        db_table = "duroxide_worker"
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return self.id
