"""Payloads in full, and histories as JSON; for users who may see payloads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from duroxide_django.admin.instance_page import read_instance
from duroxide_django.admin.pages import VIEW, VIEW_PAYLOADS, database, demand, masked_keys
from duroxide_django.engine.events import from_stored
from duroxide_django.exceptions import CorruptHistory
from duroxide_django.presentation import payloads
from duroxide_django.storage import instance_pages
from duroxide_django.storage.database import Database

#: Events read at a time for a download.
_BATCH = 1_000


def execution_payload(request: HttpRequest, key: int, execution_id: int, which: str) -> HttpResponse:
    """Return the input, output or error of an execution."""
    demand(request, VIEW, VIEW_PAYLOADS)
    db = database()
    read_instance(db, key)
    return _text(instance_pages.execution_payload(db, key, execution_id, which))


def event_payload(request: HttpRequest, key: int, execution_id: int, event_id: int) -> HttpResponse:
    """Return the data of a history event."""
    demand(request, VIEW, VIEW_PAYLOADS)
    db = database()
    read_instance(db, key)
    return _text(instance_pages.event_payload(db, key, execution_id, event_id), event=True)


def key_value_payload(request: HttpRequest, key: int) -> HttpResponse:
    """Return the value of the KV entry whose key is in the address."""
    demand(request, VIEW, VIEW_PAYLOADS)
    db = database()
    read_instance(db, key)
    name = request.GET.get("key", "").replace("\x00", "")
    if payloads.is_masked(name, masked_keys()):
        return _text(json.dumps(payloads.MASK))
    return _text(instance_pages.key_value_payload(db, key, name))


def _text(text: str | None, *, event: bool = False) -> HttpResponse:
    if text is None:
        raise Http404
    # Plain text: nothing in a payload can become a page.
    response = HttpResponse(payloads.pretty(text, masked_keys(), event=event), content_type="text/plain; charset=utf-8")
    response["X-Content-Type-Options"] = "nosniff"
    return response


def history_json(request: HttpRequest, key: int, execution_id: int) -> HttpResponse | StreamingHttpResponse:
    """Return a whole history as a JSON list, in batches: as ``manage.py duroxide history ID --json`` gives it."""
    demand(request, VIEW, VIEW_PAYLOADS)
    db = database()
    row = read_instance(db, key)
    name = f"history-{row.key}-{execution_id}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if not instance_pages.executions(db, key, only=execution_id):
        return JsonResponse([], safe=False, headers=headers)
    return StreamingHttpResponse(_history(db, key, execution_id), content_type="application/json", headers=headers)


def _history(db: Database, key: int, execution_id: int) -> Iterator[str]:
    masked, after, separator = masked_keys(), 0, "[\n"
    while events := instance_pages.whole_events(db, key, execution_id, size=_BATCH, after=after):
        for event in events:
            yield separator + json.dumps(_event(event, masked), ensure_ascii=False)
            separator = ",\n"
        after = events[-1].event_id
    yield "\n]\n" if after else "[]\n"


def _event(event: instance_pages.EventRow, masked: Any) -> dict[str, Any]:
    try:
        data = from_stored(
            kind=event.kind,
            event_id=event.event_id,
            timestamp_ms=event.timestamp_ms,
            source_event_id=event.source_event_id,
            data=event.data,
        ).public_data()
    except CorruptHistory:
        data = event.data  # As it is stored: who downloads it wants to see just that.
    return {
        "event_id": event.event_id,
        "kind": event.kind,
        "source_event_id": event.source_event_id,
        "timestamp_ms": event.timestamp_ms,
        "data": None if data is None else payloads.mask_text(data, masked),
    }
