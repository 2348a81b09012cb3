"""Verbs for many instances: those chosen on a page at once, all that match by an orchestration of the app itself."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION
from django.db import transaction
from django.db.models import Model

from duroxide_django.activities import ActivityContext, activity
from duroxide_django.admin.batch_rights import Job, check_owner, check_permit, permit
from duroxide_django.admin.log import record
from duroxide_django.admin.verbs import BATCH, DELETE, VERBS, Verb
from duroxide_django.client import Client
from duroxide_django.engine.context import OrchestrationContext
from duroxide_django.exceptions import DuroxideError, InstanceNotFound
from duroxide_django.orchestrations import orchestration
from duroxide_django.storage import overview
from duroxide_django.storage.overview import InstanceRow

STEP = "duroxide_django.batch_step"
#: Instances of one step: they are changed in one transaction.
STEP_SIZE = 50
#: Steps of one execution; then the history begins anew.
STEPS = 100
#: A step that fails, for example because the database was away, has changed nothing.
RETRIES = {"max_attempts": 8, "backoff": "exponential", "initial_delay_ms": 1_000, "max_delay_ms": 60_000}
#: Refusals that are remembered with their reasons.
MAX_REFUSALS = 10
#: Matching instances that are counted; beyond it, progress is told without a total.
COUNT_LIMIT = 10_000


def new_job(
    verb: Verb, values: dict[str, Any], filters: overview.Filters, *, below: int, total: int | None, user: Model
) -> Job:
    """Return the input of the orchestration.

    Args:
        values: of the verb's form.
        below: only instances whose row key is lower, so that what is started meanwhile is left alone.
        total: how many match, or None if they are more than COUNT_LIMIT.
    """
    return {
        "verb": verb.key,
        "values": values,
        "filters": asdict(filters),
        "below": below,
        "total": total,
        "user": str(user.pk),
        "actor": str(getattr(user, "username", user)),
        "done": 0,
        "skipped": 0,
        "refused": 0,
        "refusals": [],
    }


def start(client: Client, job: Job) -> str:
    """Start the orchestration; returns its instance id. Call it inside a transaction."""
    instance_id = f"{BATCH}-{job['verb']}-{secrets.token_hex(4)}"
    client.start_orchestration(instance_id, BATCH, job)
    permit(client.db, instance_id, job)
    return instance_id


@orchestration(BATCH)
def batch(ctx: OrchestrationContext, job: Job) -> Any:
    """Do what was asked for in the admin to all instances that match, some at a time."""
    for _ in range(STEPS):
        ctx.set_custom_status(progress(job))
        job = yield ctx.schedule_activity_with_retry(STEP, job, RETRIES)
        if job["below"] is None:
            ctx.set_custom_status(progress(job))
            return {name: job[name] for name in ("done", "skipped", "refused", "refusals")}
    return (yield ctx.continue_as_new(job))


def progress(job: Job) -> str:
    """Return how far it is, as a custom status that the admin shows as a bar."""
    seen = job["done"] + job["skipped"] + job["refused"]
    most = f"{seen}/{job['total']}" if job["total"] else f"{seen}"
    return f"{most}: {job['done']} done, {job['skipped']} left alone, {job['refused']} refused"


@activity(STEP, atomic=True)
def step(ctx: ActivityContext, job: Job) -> Job:
    """Do it to the next instances, in one transaction with the step's end, and record it in the admin's log."""
    client = ctx.get_client()
    check_permit(client.db, ctx.instance_id, job)
    verb = VERBS[job["verb"]]
    check_owner(ctx.instance_id, job, verb.permission)
    filters = overview.Filters(**job["filters"])
    rows = overview.instances(client.db, filters, size=STEP_SIZE, older_than=job["below"])
    result = perform(client, verb, rows, job["values"], user=job["user"], actor=job["actor"])
    after = {
        **job,
        # A preset looks through a window of instances; without any in it, the next one is looked through.
        "below": rows[-1].key if rows else overview.looked_to(client.db, filters, older_than=job["below"]),
        "done": job["done"] + result["done"],
        "skipped": job["skipped"] + result["skipped"],
        "refused": job["refused"] + result["refused"],
        "refusals": [*job["refusals"], *result["refusals"]][:MAX_REFUSALS],
    }
    permit(client.db, ctx.instance_id, after)
    return after


def perform(
    client: Client, verb: Verb, rows: Sequence[InstanceRow], values: dict[str, Any], *, user: Any, actor: str
) -> dict[str, Any]:
    """Do a verb to instances, those left alone to which it doesn't apply; returns counts and reasons of refusals."""
    done, skipped, refusals = [], 0, []
    for row in rows:
        if not verb.applies(row):
            skipped += 1
            continue
        try:
            with transaction.atomic(using=client.db.alias):
                text = verb.run(client, row, values, actor)
        except InstanceNotFound:
            skipped += 1  # It went with its family.
        except DuroxideError as exc:
            refusals.append(f"{row.instance_id}: {exc}")
        else:
            if text is None:
                skipped += 1
            else:
                done.append((row, text))
    for row, text in done:
        flag = DELETION if verb is DELETE else CHANGE
        record(user, row.key, row.instance_id, flag, f"{text} {values['reason']}")
    return {"done": len(done), "skipped": skipped, "refused": len(refusals), "refusals": refusals}
