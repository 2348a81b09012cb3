"""The verbs: each a form with a reason, done by the client, recorded in the admin's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from duroxide_django.admin.pages import address
from duroxide_django.admin.verb_forms import (
    CancelForm,
    CompleteForm,
    DeleteForm,
    EventForm,
    EventIdForm,
    FailForm,
    ForkForm,
    MessageForm,
    PruneForm,
    RewindForm,
    VerbForm,
)
from duroxide_django.client import Client
from duroxide_django.presentation import states
from duroxide_django.results import PruneOptions
from duroxide_django.storage.overview import InstanceRow
from duroxide_django.storage.rewind_plan import Rewound

Text = str | Promise


Values = dict[str, Any]

#: The orchestration that does a verb to many instances; see batches.py.
BATCH = "duroxide_django.batch"


def _itself(row: InstanceRow, values: Values) -> str:
    return row.instance_id


def _the_new_one(row: InstanceRow, values: Values) -> str:
    return str(values["instance_id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """Something that may be done to an instance.

    Attributes:
        key: in the address; permission: its codename.
        run: does it for an actor; returns what was done in words, or None if the instance has ended meanwhile.
        applies: whether it makes sense for an instance as it stands.
        preview: returns in words what it would do from an event on; such a verb asks for the event first.
        needs_event: whether it is about one event; such a verb has its links beside the event.
        in_batch: whether it can be done to many instances at once.
        leads_to: returns the instance id to show afterwards.
    """

    key: str
    permission: str
    label: Text
    question: Text
    form: type[VerbForm]
    run: Callable[[Client, InstanceRow, Values, str], str | None]
    applies: Callable[[InstanceRow], bool] = lambda row: row.is_open
    preview: Callable[[Client, InstanceRow, int, Values], list[str]] | None = None
    needs_event: bool = False
    in_batch: bool = False
    is_destructive: bool = False
    leads_to: Callable[[InstanceRow, Values], str] = _itself

    @property
    def url_name(self) -> str:
        """The part of the address's name that is the verb's own."""
        return self.key.replace("-", "_")

    def url(self, key: int, **parameters: Any) -> str:
        """Return the address of its page for the instance with this row key."""
        page = address(f"instance_{self.url_name}", key)
        return f"{page}?{urlencode(parameters)}" if parameters else page


def _may_repeat(row: InstanceRow) -> bool:
    """Tell whether steps may be repeated or replaced by hand: those of a batch act in the name of who asked for it."""
    return row.name != BATCH


def is_paused(row: InstanceRow) -> bool:
    """Tell whether somebody has paused it."""
    return states.is_paused(row.blocked)


def _cancel(client: Client, row: InstanceRow, values: Values, actor: str) -> str | None:
    if not client.cancel_instance(row.instance_id, values["reason"], force=values["force"]):
        return None
    return _("Cancelled by force.") if values["force"] else _("Asked to cancel.")


def _raise_event(client: Client, row: InstanceRow, values: Values, actor: str) -> str | None:
    if not client.raise_event(row.instance_id, values["name"], values["payload"]):
        return None
    return _("Raised event “%(name)s”.") % {"name": values["name"]}


def _enqueue(client: Client, row: InstanceRow, values: Values, actor: str) -> str | None:
    if not client.enqueue_event(row.instance_id, values["name"], values["payload"]):
        return None
    return _("Put a message into queue “%(name)s”.") % {"name": values["name"]}


def _retry(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    rewound = client.retry_instance(row.instance_id, reason=values["reason"], actor=actor)
    return _and_warned(_("It goes on from event %(event)d.") % {"event": rewound.kept_events}, rewound)


def _and_warned(text: str, rewound: Rewound) -> str:
    """Return ``text``, with a warning if the repair changes nothing."""
    return " ".join([text, *_warnings(rewound)])


def _warnings(rewound: Rewound) -> list[str]:
    if not rewound.repeats:
        return []
    return [_("Nothing runs again: unless its code has changed, it will fail in the same way.")]


def _manner(values: Values) -> dict[str, bool]:
    return {"rerun_activities": values["rerun"], "redeliver": not values["drop"]}


def _rewind(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    rewound = client.rewind_instance(
        row.instance_id, values["event"], **_manner(values), reason=values["reason"], actor=actor
    )
    text = _("Took back %(count)d events; it goes on from event %(event)d.") % {
        "count": rewound.removed_events,
        "event": rewound.kept_events,
    }
    return _and_warned(text, rewound)


def _preview_rewind(client: Client, row: InstanceRow, event: int, values: Values) -> list[str]:
    rewound = client.preview_rewind(row.instance_id, event, **_manner(values))
    lines = [
        _("Events 1 to %(kept)d stay, %(removed)d are taken back.")
        % {"kept": rewound.kept_events, "removed": rewound.removed_events}
        if rewound.kept_events
        else _("All %(removed)d events are taken back; the execution begins anew.")
        % {"removed": rewound.removed_events}
    ]
    return [*lines, *_what_follows(rewound)]


def _what_follows(rewound: Rewound) -> list[str]:
    parts = (
        (_("These activities run again: %(names)s."), rewound.rescheduled),
        (_("This is delivered again: %(names)s."), rewound.delivered_again),
        (_("These children are deleted: %(names)s."), rewound.deleted_children),
        (_("These time limits begin again: %(names)s."), rewound.restarted_timers),
    )
    lines = [text % {"names": _some(names)} for text, names in parts if names]
    return [*lines, _("What the code does from there on, it does again."), *_warnings(rewound)]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown}, …" if len(names) > 20 else shown


def _fork(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    forked = client.fork_instance(
        row.instance_id,
        values["instance_id"],
        event_id=values["event"],
        **_manner(values),
        reason=values["reason"],
        actor=actor,
    )
    text = _("Forked “%(id)s” from event %(event)d.") % {"id": values["instance_id"], "event": forked.kept_events}
    return _and_warned(text, forked)


def _preview_fork(client: Client, row: InstanceRow, event: int, values: Values) -> list[str]:
    forked = client.preview_fork(row.instance_id, event_id=event, **_manner(values))
    lines = [
        _("The new instance takes over events 1 to %(kept)d.") % {"kept": forked.kept_events}
        if forked.kept_events
        else _("The new instance begins with the same input.")
    ]
    parts = (
        (_("These activities run for it: %(names)s."), forked.rescheduled),
        (_("This is delivered to it too: %(names)s."), forked.delivered_again),
        (_("These time limits begin again: %(names)s."), forked.restarted_timers),
    )
    lines += [text % {"names": _some(names)} for text, names in parts if names]
    return [*lines, _("This instance stays as it is."), *_warnings(forked)]


def _pause(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    client.pause_instance(row.instance_id, reason=values["reason"], actor=actor)
    return _("Paused.")


def _resume(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    client.resume_instance(row.instance_id, reason=values["reason"], actor=actor)
    return _("Resumed.")


def _retry_activity(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    name = client.retry_activity_now(row.instance_id, values["event"], reason=values["reason"], actor=actor)
    return _("%(name)s (event %(event)d) is due now.") % {"name": name, "event": values["event"]}


def _complete_activity(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    name = client.complete_activity(
        row.instance_id, values["event"], values["payload"], reason=values["reason"], actor=actor
    )
    return _("Completed %(name)s (event %(event)d) by hand.") % {"name": name, "event": values["event"]}


def _fail_activity(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    name = client.fail_activity(
        row.instance_id,
        values["event"],
        values["error"],
        retryable=values["retryable"],
        reason=values["reason"],
        actor=actor,
    )
    return _("Let %(name)s (event %(event)d) fail by hand.") % {"name": name, "event": values["event"]}


def _prune(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    result = client.prune_executions(row.instance_id, PruneOptions(keep_last=values["keep_last"]))
    return _("Pruned %(executions)d executions with %(events)d events.") % {
        "executions": result.executions_deleted,
        "events": result.events_deleted,
    }


def _delete(client: Client, row: InstanceRow, values: Values, actor: str) -> str:
    result = client.delete_instance(row.instance_id, force=values["force"])
    return _("Deleted %(instances)d instances with %(events)d events.") % {
        "instances": result.instances_deleted,
        "events": result.events_deleted,
    }


RAISE_EVENT = Verb(
    key="raise-event",
    permission="raise_event",
    label=gettext_lazy("Raise event"),
    question=gettext_lazy("The event is delivered to the instance and wakes it if it waits for it."),
    form=EventForm,
    run=_raise_event,
    in_batch=True,
)
ENQUEUE = Verb(
    key="enqueue",
    permission="enqueue_message",
    label=gettext_lazy("Enqueue message"),
    question=gettext_lazy("The message is put at the end of a queue of the instance."),
    form=MessageForm,
    run=_enqueue,
    in_batch=True,
)
RETRY = Verb(
    key="retry",
    permission="retry_instance",
    label=gettext_lazy("Retry"),
    question=gettext_lazy(
        "The instance goes on from its last good event, with its failed children. Activities whose failure ended it "
        "run again."
    ),
    form=VerbForm,
    run=_retry,
    applies=lambda row: row.status == "Failed" and row.parent is None and _may_repeat(row),
    in_batch=True,
)
REWIND = Verb(
    key="rewind",
    permission="rewind_instance",
    label=gettext_lazy("Rewind"),
    question=gettext_lazy("The history is taken back to an event, and the instance goes on from there."),
    form=RewindForm,
    run=_rewind,
    applies=lambda row: row.last_event_id > 0 and (row.is_open or row.parent is None) and _may_repeat(row),
    preview=_preview_rewind,
)
FORK = Verb(
    key="fork",
    permission="fork_instance",
    label=gettext_lazy("Fork"),
    question=gettext_lazy("A new instance takes the history over up to an event, and goes on from there."),
    form=ForkForm,
    run=_fork,
    applies=lambda row: row.last_event_id > 0 and _may_repeat(row),
    preview=_preview_fork,
    leads_to=_the_new_one,
)
PAUSE = Verb(
    key="pause",
    permission="pause_instance",
    label=gettext_lazy("Pause"),
    question=gettext_lazy("The instance takes no turn until it is resumed. What reaches it waits."),
    form=VerbForm,
    run=_pause,
    applies=lambda row: row.is_open and not is_paused(row),
    in_batch=True,
)
RESUME = Verb(
    key="resume",
    permission="resume_instance",
    label=gettext_lazy("Resume"),
    question=gettext_lazy("The instance goes on, or is tried again at once if it was blocked."),
    form=VerbForm,
    run=_resume,
    applies=lambda row: row.is_open and row.blocked is not None,
    in_batch=True,
)
RETRY_ACTIVITY = Verb(
    key="retry-activity",
    permission="retry_activity",
    label=gettext_lazy("Due now"),
    question=gettext_lazy("The activity is taken at once with all its attempts, or the timer fires at once."),
    form=EventIdForm,
    run=_retry_activity,
    needs_event=True,
)
COMPLETE_ACTIVITY = Verb(
    key="complete-activity",
    permission="complete_activity",
    label=gettext_lazy("Complete"),
    question=gettext_lazy("The activity gets this result. A worker that runs it loses it."),
    form=CompleteForm,
    run=_complete_activity,
    applies=lambda row: row.is_open and _may_repeat(row),
    needs_event=True,
)
FAIL_ACTIVITY = Verb(
    key="fail-activity",
    permission="fail_activity",
    label=gettext_lazy("Fail"),
    question=gettext_lazy("The activity fails with this error. A worker that runs it loses it."),
    form=FailForm,
    run=_fail_activity,
    applies=lambda row: row.is_open and _may_repeat(row),
    needs_event=True,
)
CANCEL = Verb(
    key="cancel",
    permission="cancel_instance",
    label=gettext_lazy("Cancel"),
    question=gettext_lazy("The instance and its children are cancelled. This can’t be taken back."),
    form=CancelForm,
    run=_cancel,
    in_batch=True,
    is_destructive=True,
)
PRUNE = Verb(
    key="prune",
    permission="prune_instance",
    label=gettext_lazy("Prune"),
    question=gettext_lazy("Ended executions are deleted with their histories. This can’t be taken back."),
    form=PruneForm,
    run=_prune,
    applies=lambda row: row.execution_id > 1,
    in_batch=True,
    is_destructive=True,
)
DELETE = Verb(
    key="delete",
    permission="delete_instance",
    label=gettext_lazy("Delete"),
    question=gettext_lazy("The instance and all below it are deleted with their histories. This can’t be taken back."),
    form=DeleteForm,
    run=_delete,
    applies=lambda row: row.parent is None,
    in_batch=True,
    is_destructive=True,
)
#: All verbs, in the order of their buttons.
VERBS = {
    verb.key: verb
    for verb in (
        RAISE_EVENT,
        ENQUEUE,
        RETRY,
        PAUSE,
        RESUME,
        REWIND,
        FORK,
        RETRY_ACTIVITY,
        COMPLETE_ACTIVITY,
        FAIL_ACTIVITY,
        CANCEL,
        PRUNE,
        DELETE,
    )
}


def applicable(row: InstanceRow) -> list[Verb]:
    """Return the verbs that make sense for an instance as it stands."""
    return [verb for verb in VERBS.values() if verb.applies(row)]


def start(client: Client, values: dict[str, Any]) -> str:
    """Start the instance that a StartForm describes; returns what was done."""
    name, version, instance_id = values["name"], values["version"], values["instance_id"]
    if version:
        client.start_orchestration_versioned(instance_id, name, values["input"], version)
    else:
        client.start_orchestration(instance_id, name, values["input"])
    return _("Started %(name)s.") % {"name": f"{name} {version}".strip()}
