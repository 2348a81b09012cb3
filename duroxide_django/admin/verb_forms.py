"""What the verbs ask for."""

from __future__ import annotations

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.utils.translation import gettext_lazy


class VerbForm(forms.Form):
    """What every verb asks for."""

    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("Why you do this; it is kept in the log."),
    )


class CancelForm(VerbForm):
    """How to cancel."""

    force = forms.BooleanField(
        label=gettext_lazy("End it at once, without its clean-up"),
        required=False,
        help_text=gettext_lazy("Works even if its code is missing."),
    )
    field_order = ("force", "reason")


class _DataForm(VerbForm):
    payload = forms.JSONField(
        label=gettext_lazy("Data"),
        required=False,
        widget=AdminTextareaWidget(attrs={"rows": 6}),
        help_text=gettext_lazy("JSON; nothing means null."),
    )


class EventForm(_DataForm):
    """Which event to raise."""

    name = forms.CharField(label=gettext_lazy("Event"), widget=AdminTextInputWidget)
    field_order = ("name", "payload", "reason")


class MessageForm(_DataForm):
    """Which message to enqueue."""

    name = forms.CharField(label=gettext_lazy("Queue"), widget=AdminTextInputWidget)
    field_order = ("name", "payload", "reason")


class DeleteForm(VerbForm):
    """How to delete."""

    force = forms.BooleanField(
        label=gettext_lazy("Delete it even if it is running"),
        required=False,
        help_text=gettext_lazy("Work that was begun is lost without a trace."),
    )
    field_order = ("force", "reason")


class PruneForm(VerbForm):
    """What to prune."""

    keep_last = forms.IntegerField(
        label=gettext_lazy("Executions to keep"),
        min_value=1,
        initial=1,
        help_text=gettext_lazy("The newest ones stay; the current one always does."),
    )
    field_order = ("keep_last", "reason")


class EventIdForm(VerbForm):
    """Which activity or timer; the page that leads here knows it."""

    event = forms.IntegerField(min_value=0, widget=forms.HiddenInput)


class CompleteForm(EventIdForm):
    """The result to give."""

    payload = forms.JSONField(
        label=gettext_lazy("Result"),
        required=False,
        widget=AdminTextareaWidget(attrs={"rows": 6}),
        help_text=gettext_lazy("JSON; nothing means null."),
    )
    field_order = ("event", "payload", "reason")


class FailForm(EventIdForm):
    """The failure to give."""

    error = forms.CharField(label=gettext_lazy("Error"), max_length=1_000, widget=AdminTextInputWidget)
    retryable = forms.BooleanField(
        label=gettext_lazy("Its retry policy may try it again"), required=False, initial=True
    )
    field_order = ("event", "error", "retryable", "reason")


class RewindForm(EventIdForm):
    """How to take a history back; like the event, it is chosen beside the preview."""

    rerun = forms.BooleanField(
        label=gettext_lazy("Run activities again whose results are taken back"),
        required=False,
        widget=forms.HiddenInput,
    )
    drop = forms.BooleanField(
        label=gettext_lazy("Don’t deliver events and queue messages again"),
        required=False,
        widget=forms.HiddenInput,
    )


class ForkForm(RewindForm):
    """The new instance."""

    instance_id = forms.CharField(
        label=gettext_lazy("New instance id"),
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("Must not exist yet."),
    )
    field_order = ("event", "instance_id", "reason")


class StartForm(VerbForm):
    """What to start."""

    name = forms.CharField(
        label=gettext_lazy("Orchestration"), widget=AdminTextInputWidget(attrs={"list": "orchestrations"})
    )
    version = forms.CharField(
        label=gettext_lazy("Version"),
        required=False,
        widget=AdminTextInputWidget,
        help_text=gettext_lazy("Nothing means the latest one."),
    )
    instance_id = forms.CharField(
        label=gettext_lazy("Instance id"), widget=AdminTextInputWidget, help_text=gettext_lazy("Must not exist yet.")
    )
    input = forms.JSONField(
        label=gettext_lazy("Input"),
        required=False,
        widget=AdminTextareaWidget(attrs={"rows": 6}),
        help_text=gettext_lazy("JSON; nothing means null."),
    )
    field_order = ("name", "version", "instance_id", "input", "reason")
