"""What somebody should know or do about an instance."""

from __future__ import annotations

import json
from collections.abc import Sequence

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from duroxide_django.presentation import fleet
from duroxide_django.presentation.now import Facts, attempt_of, open_retries
from duroxide_django.presentation.texts import DAY_MS, duration
from duroxide_django.storage.instance_pages import ExecutionRow, MailRow
from duroxide_django.storage.overview import OVERDUE_MS

#: A longer execution should continue as new: replays and pages get slow.
MANY_EVENTS = 5_000
#: A policy that allows more attempts is as good as none.
MANY_ATTEMPTS = 1_000
#: Share of the limit from which a payload is called large.
LARGE_SHARE = 0.5

_CURES = {
    "nondeterminism": gettext_lazy(
        "The code changed in a way that this history does not fit. Deploy the code it was begun with, or register the "
        "change as a new version; it goes on by itself then."
    ),
    "missing_code": gettext_lazy("Deploy a worker that has this orchestration and version; it goes on by itself then."),
    "corrupt_history": gettext_lazy(
        "The history can’t be read, perhaps because a newer version wrote it. Update the workers."
    ),
    "newer_engine": gettext_lazy(
        "A newer release of duroxide_django began this execution. Start workers of that release, or finish the update."
    ),
    "open_transaction": gettext_lazy(
        "Its function left a database transaction open at a yield. Close it before, or move the work to an activity."
    ),
    "payload_unreadable": gettext_lazy(
        "Give the workers the payload codec and the keys that wrote it (setting PAYLOAD_CODEC); it goes on by itself."
    ),
    "hanging_turn": gettext_lazy(
        "Its function does not come to the next yield. Mend the named place and deploy before its attempts are used up."
    ),
    "database_failed": gettext_lazy(
        "A read from another instance failed for the database’s sake; it is tried again by itself."
    ),
    "corrupt_row": gettext_lazy(
        "A row of the instance was changed by hand. Repair or delete the named row; it goes on by itself then."
    ),
    "refused_by_database": gettext_lazy("The database refused what the turn wrote; the message tells why."),
}


def advice(
    facts: Facts, *, execution: ExecutionRow | None, mail: Sequence[MailRow], max_payload_bytes: int
) -> list[str]:
    """Return sentences of advice, the most urgent first."""
    row = facts.row
    found: list[str] = []
    if row.is_open:
        found += _blocked(row.blocked, show_mismatch=facts.show_mismatch)
        found += _unserved(facts)
        found += _overdue(facts)
        if row.attempts > 2:
            found.append(
                _("Turns were begun %(count)d times without being committed; look at the workers’ logs.")
                % {"count": row.attempts}
            )
        found += _unlimited(facts)
        found += _backlog(facts, mail)
    if row.last_event_id > MANY_EVENTS:
        found.append(
            _("Its history has %(count)d events. Use continue_as_new() from time to time to keep it short.")
            % {"count": row.last_event_id}
        )
    if execution and max(execution.input_chars, execution.output_chars) > max_payload_bytes * LARGE_SHARE:
        found.append(
            _("Its input or output is close to the largest size allowed (%(limit)d bytes). Pass a reference instead.")
            % {"limit": max_payload_bytes}
        )
    return found


def _blocked(text: str | None, *, show_mismatch: bool) -> list[str]:
    try:
        why = json.loads(text or "null")
    except ValueError:
        return []
    if not isinstance(why, dict):
        return []
    found = [str(_CURES[why["reason"]])] if why.get("reason") in _CURES else []
    if show_mismatch and (why.get("expected") or why.get("got")):
        found.append(
            _("Event %(event)s: the history has %(expected)s, the code asks for %(got)s (%(source)s).")
            % {
                "event": why.get("event_id") or "?",
                "expected": why.get("expected") or "–",
                "got": why.get("got") or "–",
                "source": why.get("source") or "?",
            }
        )
    return found


def _unserved(facts: Facts) -> list[str]:
    row, found = facts.row, []
    if not fleet.serving_orchestration(facts.workers, row.name, row.version):
        what = f"{row.name} {row.version}" if row.version else row.name
        found.append(_("No live worker runs %(name)s. Start one: manage.py runworkers.") % {"name": what})
    missing = {
        (task.name, task.tag)
        for task in facts.tasks
        if task.lease_until_ms <= facts.now_ms and not fleet.serving_activity(facts.workers, task.name, task.tag)
    }
    for name, tag in sorted(missing):
        if tag:
            text = _("No live worker serves activity %(name)s with tag %(tag)s; start one with that tag.")
        else:
            text = _("No live worker serves activity %(name)s.")
        found.append(text % {"name": name, "tag": tag})
    return found


def _unlimited(facts: Facts) -> list[str]:
    policies = {(retry.name, retry.max_attempts) for retry in open_retries(facts)}
    policies |= {(task.name, place[1]) for task in facts.tasks if (place := attempt_of(task))}
    return [
        _("Activity %(name)s has no retry limit to speak of (%(count)d attempts); lower max_attempts.")
        % {"name": name, "count": most}
        for name, most in sorted(policies)
        if most > MANY_ATTEMPTS
    ]


def _overdue(facts: Facts) -> list[str]:
    late = [facts.now_ms - message.visible_at_ms for message in facts.messages]
    if not late or max(late) <= OVERDUE_MS:
        return []
    return [_("A message waits since %(time)s for a worker to take it.") % {"time": duration(max(late))}]


def _backlog(facts: Facts, mail: Sequence[MailRow]) -> list[str]:
    subscribed = {wait.name for wait in facts.waits if wait.kind == "queue"}
    old = sorted({
        message.queue
        for message in mail
        if message.queue not in subscribed and facts.now_ms - message.enqueued_ms > DAY_MS
    })  # fmt: skip
    if not old:
        return []
    text = ngettext(
        "Messages in queue %(names)s wait for more than a day and nothing asks for them.",
        "Messages in queues %(names)s wait for more than a day and nothing asks for them.",
        len(old),
    )
    return [text % {"names": ", ".join(old)}]
