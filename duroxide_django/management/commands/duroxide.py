"""``manage.py duroxide``: look at instances, signal them, repair them. Parses, calls the client, prints."""

from __future__ import annotations

import getpass
import json
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections import defaultdict
from collections.abc import Callable
from copy import copy
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from duroxide_django.client import FAIL, IGNORE, RESTART_TERMINAL, Client
from duroxide_django.exceptions import DuroxideError, InstanceNotFound
from duroxide_django.management._output import as_json, fields, moment, table
from duroxide_django.results import PruneOptions
from duroxide_django.storage.rewind_plan import Rewound

#: Exit codes beside 0 (done) and 2 (the command line is wrong).
REFUSED, NOT_FOUND, NEEDS_ATTENTION = 1, 3, 4

Options = dict[str, Any]


class Command(BaseCommand):
    """Exit codes: 0 done; 1 refused or failed, nothing was changed; 2 wrong command line; 3 no such instance,
    execution, key or activity; 4 ``doctor`` found something that needs attention, ``reencode`` left something.
    """

    help = "Look at durable workflows, signal and repair them. Every verb takes --json for scripts. " + " ".join(
        (__doc__ or "").split()
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for name, (text, add, _) in VERBS.items():
            verb = verbs.add_parser(name, help=text, description=text)
            add(verb)
            _accept_everywhere(verb, parser)
            verb.add_argument("--using", help="Database alias (default: DUROXIDE['DATABASE']).")
            verb.add_argument("--json", action="store_true", dest="as_json", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        _, _, call = VERBS[options["verb"]]
        try:
            value, text, code = call(Client(using=options["using"]), options)
        except InstanceNotFound as exc:
            raise CommandError(str(exc), returncode=NOT_FOUND) from exc
        except (DuroxideError, DatabaseError) as exc:
            raise CommandError(str(exc), returncode=REFUSED) from exc
        self.stdout.write(as_json(value) if options["as_json"] else text)
        if code:
            raise SystemExit(code)


def _accept_everywhere(verb: ArgumentParser, parser: ArgumentParser) -> None:
    """Let Django's own options (--settings, --traceback …) stand behind the verb too, where people write them."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if action.option_strings and action.dest not in ("help", "version"):
            own = copy(action)
            own.default = SUPPRESS  # What stands before the verb counts.
            own.help = SUPPRESS
            verb._add_action(own)  # noqa: SLF001 - the same


#: What a verb gives back: the value for --json, the text for people, the exit code.
Answer = tuple[Any, str, int]


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ArgumentTypeError(f"is no JSON ({exc}); quote texts twice: '\"text\"'") from exc


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError as exc:
        raise ArgumentTypeError(f"{text!r} is no whole number") from exc
    if number < 1:
        raise ArgumentTypeError("must be at least 1")
    return number


def _event(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _no_arguments(parser: ArgumentParser) -> None:
    pass


def _id_argument(parser: ArgumentParser) -> None:
    parser.add_argument("instance_id", metavar="ID")


# Looking


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--status", choices=["Running", "Completed", "Failed"])
    parser.add_argument("--name", help="Only this orchestration.")
    parser.add_argument("--limit", type=_positive, default=50, help="At the most so many (default 50).")
    parser.add_argument("--before", metavar="ID", help="Go on after this instance (paging).")


def _list(client: Client, options: Options) -> Answer:
    ids = client.find_instances(
        status=options["status"], name=options["name"], limit=options["limit"], before=options["before"]
    )
    infos = client.get_instance_infos(ids)
    rows = [
        (info.instance_id, info.orchestration_name, info.orchestration_version, _state(info), moment(info.created_at))
        for info in infos
    ]
    return infos, table(("INSTANCE", "ORCHESTRATION", "VERSION", "STATUS", "CREATED"), rows), 0


def _state(info: Any) -> str:
    return "Cancelled" if info.is_cancelled else str(info.status)


def _show(client: Client, options: Options) -> Answer:
    info = client.get_instance_info(options["instance_id"])
    pending = client.list_pending(info.instance_id)
    blocked = client.get_blocked(info.instance_id)
    text = fields(
        (
            ("instance", info.instance_id),
            ("orchestration", info.orchestration_name),
            ("version", info.orchestration_version),
            ("status", _state(info)),
            ("blocked", f"{blocked.get('reason')}: {blocked.get('message')}" if blocked else None),
            ("custom status" if info.status == "Running" else "last custom status", info.custom_status),
            ("execution", info.current_execution_id),
            ("parent", info.parent_instance_id),
            ("created", moment(info.created_at)),
            ("updated", moment(info.updated_at)),
            ("completed", moment(info.completed_at)),
            ("output" if info.status == "Completed" else "error", info.output),
        )
    )
    if pending:
        rows = [(item.kind, item.name, item.event_id, moment(item.due_ms), item.detail) for item in pending]
        text += "\n\nWaits for\n" + table(("KIND", "NAME", "EVENT", "DUE", "DETAIL"), rows)
    return {"instance": info, "blocked": blocked, "pending": pending}, text, 0


def _history_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("--execution", type=_positive, metavar="N", help="Default: the current one.")


def _history(client: Client, options: Options) -> Answer:
    info = client.get_instance_info(options["instance_id"])
    execution = options["execution"] or info.current_execution_id
    client.get_execution_info(info.instance_id, execution)
    events = client.read_execution_history(info.instance_id, execution)
    rows = [
        (event.event_id, event.source_event_id, moment(event.timestamp_ms), event.kind, event.data) for event in events
    ]
    return events, table(("EVENT", "OF", "TIME", "KIND", "DATA"), rows), 0


def _tree(client: Client, options: Options) -> Answer:
    tree = client.get_instance_tree(options["instance_id"])
    infos = [client.get_instance_info(instance_id) for instance_id in tree.all_ids]
    children: dict[str | None, list[Any]] = defaultdict(list)
    for info in infos[1:]:
        children[info.parent_instance_id].append(info)
    lines: list[str] = []

    def add(info: Any, depth: int) -> None:
        lines.append(f"{'  ' * depth}{info.instance_id}  {info.orchestration_name}  {_state(info)}")
        for child in children[info.instance_id]:
            add(child, depth + 1)

    add(infos[0], 0)
    return infos, "\n".join(lines), 0


def _status(client: Client, options: Options) -> Answer:
    result = client.get_status(options["instance_id"])
    if result.status == "NotFound":
        raise InstanceNotFound(f"Instance {options['instance_id']!r} not found.", instance_id=options["instance_id"])
    return result, "Cancelled" if result.is_cancelled else result.status, 0


def _kv_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("key", nargs="?", help="Only this key's value.")


def _kv(client: Client, options: Options) -> Answer:
    client.get_instance_info(options["instance_id"])
    values = client.get_kv_all_values(options["instance_id"])
    key = options["key"]
    if key is None:
        return values, table(("KEY", "VALUE"), sorted(values.items())), 0
    if key not in values:
        raise InstanceNotFound(f"Instance {options['instance_id']!r} has no key {key!r}.")
    return values[key], values[key], 0


def _metrics(client: Client, options: Options) -> Answer:
    return _counts(client.get_system_metrics())


def _depths(client: Client, options: Options) -> Answer:
    return _counts(client.get_queue_depths())


def _counts(value: Any) -> Answer:
    return value, fields((name, getattr(value, name)) for name in value.__dataclass_fields__), 0


def _doctor_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--overdue", type=_positive, default=60, metavar="SECONDS", help="Due work counts as late then (default 60)."
    )
    parser.add_argument(
        "--fail-on", choices=["problem", "warning", "never"], default="problem", help="What gives exit code 4."
    )


def _doctor(client: Client, options: Options) -> Answer:
    findings = client.examine_health(overdue_ms=options["overdue"] * 1000)
    lines = []
    for finding in findings:
        lines += [
            f"{finding.severity.upper()} {finding.rule}: {finding.subject}",
            f"  why:  {finding.why}",
            f"  cure: {finding.cure}",
        ]
    counts = [sum(finding.severity == severity for finding in findings) for severity in ("problem", "warning")]
    lines.append(
        f"{counts[0]} problem(s), {counts[1]} warning(s)." if findings else "Healthy: nothing needs attention."
    )
    bad = {"problem": counts[0], "warning": len(findings), "never": 0}[options["fail_on"]]
    return findings, "\n".join(lines), NEEDS_ATTENTION if bad else 0


# Signalling


def _start_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("name", metavar="ORCHESTRATION")
    parser.add_argument("--input", type=_json_value, metavar="JSON", help="Default: null.")
    parser.add_argument("--orchestration-version", metavar="VERSION", help="Default: the latest.")
    parser.add_argument("--on-conflict", choices=[FAIL, IGNORE, RESTART_TERMINAL], default=FAIL)


def _start(client: Client, options: Options) -> Answer:
    instance_id, name, value = options["instance_id"], options["name"], options["input"]
    version, on_conflict = options["orchestration_version"], options["on_conflict"]
    if version is None:
        client.start_orchestration(instance_id, name, value, on_conflict=on_conflict)
    else:
        client.start_orchestration_versioned(instance_id, name, value, version, on_conflict=on_conflict)
    return {"instance_id": instance_id}, f"Started {instance_id}.", 0


def _cancel_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("--reason")
    parser.add_argument("--force", action="store_true", help="End it at once, without its clean-up.")


def _cancel(client: Client, options: Options) -> Answer:
    sent = client.cancel_instance(options["instance_id"], options["reason"], force=options["force"])
    return _delivered(options, sent, "Cancel requested.")


def _raise_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("name", metavar="EVENT")
    parser.add_argument("--data", type=_json_value, metavar="JSON", help="Default: null.")


def _raise(client: Client, options: Options) -> Answer:
    sent = client.raise_event(options["instance_id"], options["name"], options["data"])
    return _delivered(options, sent, f"Event {options['name']} raised.")


def _enqueue_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("--data", type=_json_value, metavar="JSON", help="Default: null.")


def _enqueue(client: Client, options: Options) -> Answer:
    sent = client.enqueue_event(options["instance_id"], options["queue"], options["data"])
    return _delivered(options, sent, f"Message put into {options['queue']}.")


def _delivered(options: Options, sent: bool, text: str) -> Answer:
    if not sent:
        text = f"Not delivered: {options['instance_id']} has ended."
    return {"instance_id": options["instance_id"], "delivered": sent}, text, 0 if sent else REFUSED


# Removing


def _delete_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("--force", action="store_true", help="Even if it runs.")


def _delete(client: Client, options: Options) -> Answer:
    return _counts(client.delete_instance(options["instance_id"], options["force"]))


def _prune_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("--keep-last", type=_positive, metavar="N", help="Keep so many newest executions (default 1).")


def _prune(client: Client, options: Options) -> Answer:
    return _counts(client.prune_executions(options["instance_id"], PruneOptions(keep_last=options["keep_last"])))


# Repairing; each leaves an audit record


def _repair_arguments(parser: ArgumentParser) -> None:
    _id_argument(parser)
    parser.add_argument("--reason", default="", help="For the audit record.")
    parser.add_argument("--actor", default=None, help="For the audit record (default: who runs this).")


def _activity_arguments(parser: ArgumentParser) -> None:
    _repair_arguments(parser)
    parser.add_argument("event_id", metavar="EVENT", type=_positive, help="The schedule event; see show.")


def _complete_arguments(parser: ArgumentParser) -> None:
    _activity_arguments(parser)
    parser.add_argument("--result", type=_json_value, metavar="JSON", help="Default: null.")


def _fail_arguments(parser: ArgumentParser) -> None:
    _activity_arguments(parser)
    parser.add_argument("--error", required=True, help="The failure's text.")
    parser.add_argument("--no-retry", action="store_true", help="Its retry policy must not try it again.")


def _audited(options: Options) -> dict[str, Any]:
    actor = options["actor"]
    return {"reason": options["reason"], "actor": _user() if actor is None else actor}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _pause(client: Client, options: Options) -> Answer:
    client.pause_instance(options["instance_id"], **_audited(options))
    return {"instance_id": options["instance_id"]}, f"Paused {options['instance_id']}.", 0


def _resume(client: Client, options: Options) -> Answer:
    client.resume_instance(options["instance_id"], **_audited(options))
    return {"instance_id": options["instance_id"]}, f"{options['instance_id']} goes on.", 0


def _retry(client: Client, options: Options) -> Answer:
    return _rewound(client.retry_instance(options["instance_id"], **_audited(options)))


def _taking_back_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--rerun", action="store_true", help="Run activities again whose results are taken back.")
    parser.add_argument("--drop", action="store_true", help="Don't deliver events and queue messages again.")
    parser.add_argument("--dry-run", action="store_true", help="Only tell what would happen.")


def _manner(options: Options) -> dict[str, Any]:
    return {"rerun_activities": options["rerun"], "redeliver": not options["drop"]}


def _rewound(rewound: Rewound) -> Answer:
    text = fields((name, getattr(rewound, name)) for name in rewound.__dataclass_fields__)
    if rewound.repeats:
        text += "\nNothing runs again: unless its code has changed, it will fail in the same way."
    return rewound, text, 0


def _rewind_arguments(parser: ArgumentParser) -> None:
    _repair_arguments(parser)
    parser.add_argument("event_id", metavar="EVENT", type=_event, help="The last event to keep; 0: begin anew.")
    _taking_back_arguments(parser)


def _rewind(client: Client, options: Options) -> Answer:
    instance_id, event_id, manner = options["instance_id"], options["event_id"], _manner(options)
    if options["dry_run"]:
        return _rewound(client.preview_rewind(instance_id, event_id, **manner))
    return _rewound(client.rewind_instance(instance_id, event_id, **manner, **_audited(options)))


def _fork_arguments(parser: ArgumentParser) -> None:
    _repair_arguments(parser)
    parser.add_argument("new_instance_id", metavar="NEW_ID", help="The copy's id.")
    parser.add_argument(
        "--event",
        dest="event_id",
        type=_event,
        metavar="EVENT",
        help="The last event to copy; 0: begin anew. Default: all that is good.",
    )
    _taking_back_arguments(parser)


def _fork(client: Client, options: Options) -> Answer:
    instance_id, new_id, event_id = options["instance_id"], options["new_instance_id"], options["event_id"]
    if options["dry_run"]:
        return _rewound(client.preview_fork(instance_id, event_id=event_id, **_manner(options)))
    return _rewound(
        client.fork_instance(instance_id, new_id, event_id=event_id, **_manner(options), **_audited(options))
    )


def _complete_activity(client: Client, options: Options) -> Answer:
    name = client.complete_activity(options["instance_id"], options["event_id"], options["result"], **_audited(options))
    return {"activity": name}, f"Completed {name}.", 0


def _fail_activity(client: Client, options: Options) -> Answer:
    name = client.fail_activity(
        options["instance_id"],
        options["event_id"],
        options["error"],
        retryable=not options["no_retry"],
        **_audited(options),
    )
    return {"activity": name}, f"Failed {name}.", 0


def _retry_activity(client: Client, options: Options) -> Answer:
    name = client.retry_activity_now(options["instance_id"], options["event_id"], **_audited(options))
    return {"activity": name}, f"{name} is due now.", 0


def _audit_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("instance_id", metavar="ID", nargs="?", help="Only of this instance.")
    parser.add_argument("--limit", type=_positive, default=50, help="At the most so many (default 50).")


def _audit(client: Client, options: Options) -> Answer:
    records = client.list_audit_records(options["instance_id"], limit=options["limit"])
    rows = [
        (moment(record.at_ms), record.actor, record.verb, record.instance_id, record.reason, record.details)
        for record in records
    ]
    return records, table(("TIME", "BY", "VERB", "INSTANCE", "REASON", "DETAILS"), rows), 0


def _reencode_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only count.")


def _reencode(client: Client, options: Options) -> Answer:
    names = ("looked_at", "rewritten", "unreadable", "in_use")
    totals: dict[str, dict[str, Any]] = {}
    for batch in client.reencode_payloads(dry_run=options["dry_run"]):
        total = totals.setdefault(batch.table, {**dict.fromkeys(names, 0), "why": ""})
        for name in names:
            total[name] += getattr(batch, name)
        total["why"] = total["why"] or batch.why
    rows = [(name, *total.values()) for name, total in totals.items()]
    left = any(total["unreadable"] or total["in_use"] for total in totals.values())
    headings = ("TABLE", "ROWS", "TO REWRITE" if options["dry_run"] else "REWRITTEN", "UNREADABLE", "IN USE", "WHY")
    return totals, table(headings, rows), NEEDS_ATTENTION if left else 0


#: Verb: (help, adds its arguments, does it).
VERBS: dict[str, tuple[str, Callable[[ArgumentParser], None], Callable[[Client, Options], Answer]]] = {
    "list": ("List instances, newest first.", _list_arguments, _list),
    "show": ("Show an instance and what it waits for.", _id_argument, _show),
    "history": ("Show the events of an execution.", _history_arguments, _history),
    "tree": ("Show an instance with all its descendants.", _id_argument, _tree),
    "status": ("Print an instance's status.", _id_argument, _status),
    "kv": ("Print an instance's KV entries.", _kv_arguments, _kv),
    "metrics": ("Count instances, executions and events.", _no_arguments, _metrics),
    "depths": ("Count what waits in the queues.", _no_arguments, _depths),
    "doctor": ("Find what can't go on or needs attention; exit code 4 if there is any.", _doctor_arguments, _doctor),
    "start": ("Start an instance.", _start_arguments, _start),
    "cancel": ("Cancel an instance with its children.", _cancel_arguments, _cancel),
    "raise": ("Raise an external event.", _raise_arguments, _raise),
    "enqueue": ("Put a message into an instance's queue.", _enqueue_arguments, _enqueue),
    "pause": ("Keep an instance from going on.", _repair_arguments, _pause),
    "resume": ("Let a paused or blocked instance go on at once.", _repair_arguments, _resume),
    "retry": ("Let a failed instance go on from its last good event.", _repair_arguments, _retry),
    "rewind": ("Take an instance back to an earlier event.", _rewind_arguments, _rewind),
    "fork": ("Start a copy of an instance, from an event on.", _fork_arguments, _fork),
    "complete-activity": ("Give a pending activity its result by hand.", _complete_arguments, _complete_activity),
    "fail-activity": ("Let a pending activity fail by hand.", _fail_arguments, _fail_activity),
    "retry-activity": ("Let a waiting activity or timer be due now.", _activity_arguments, _retry_activity),
    "audit": ("List what operators did, newest first.", _audit_arguments, _audit),
    "reencode": (
        "Write stored payloads anew through PAYLOAD_CODEC, after a change of it; exit code 4 if some are left.",
        _reencode_arguments,
        _reencode,
    ),
    "delete": ("Delete a root instance with all its descendants.", _delete_arguments, _delete),
    "prune": ("Delete an instance's old executions.", _prune_arguments, _prune),
}
