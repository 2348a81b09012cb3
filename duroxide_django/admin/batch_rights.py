"""What lets a batch take its next step: what was asked for, once, by a user who may still do it."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.signing import BadSignature, TimestampSigner

from duroxide_django.admin.pages import APP, VIEW
from duroxide_django.exceptions import NonRetryable
from duroxide_django.storage import audit, overview
from duroxide_django.storage.database import Database

#: Verb of the audit records that hold the permits.
PERMIT = "batch"
#: A batch that takes no step for longer than this, in seconds, takes none any more.
MAX_PAUSE_S = 7 * 24 * 3600

_signer = TimestampSigner(salt="duroxide_django.batch")

Job = dict[str, Any]


def permit(db: Database, instance_id: str, job: Job) -> None:
    """Permit one step with this job; call it inside the transaction that starts the batch or ends a step.

    The permit is an audit record, which no rewind takes back. It signs all of the job, the instance's row key and the
    time. Each permit replaces the one before.
    """
    text = _text(db, instance_id, job)
    audit.record(
        db,
        PERMIT,
        instance_id,
        actor=job["actor"],
        reason=job["values"]["reason"],
        details={
            "verb": job["verb"],
            **{name: job[name] for name in ("below", "done", "skipped", "refused")},
            "signature": _signer.sign(text).removeprefix(text),
        },
    )


def check_permit(db: Database, instance_id: str, job: Job) -> None:
    """Raise NonRetryable unless the latest permit of this instance is for this job, and recent enough."""
    latest = audit.latest_details(db, PERMIT, instance_id) or {}
    try:
        _signer.unsign(f"{_text(db, instance_id, job)}{latest.get('signature')}", max_age=MAX_PAUSE_S)
    except BadSignature as exc:
        raise NonRetryable(
            f"{instance_id} was not asked for in the admin as it stands: it was changed, rewound or started again, "
            f"stood still for more than {MAX_PAUSE_S // 86_400} days, or the SECRET_KEY of this worker is not the web "
            "server's. Choose the instances in the admin again."
        ) from exc


def _text(db: Database, instance_id: str, job: Job) -> str:
    return json.dumps([instance_id, overview.key_of(db, instance_id), job], sort_keys=True)


def check_owner(instance_id: str, job: Job, permission: str) -> None:
    """Raise NonRetryable unless the user who asked for the batch may do it now.

    Args:
        permission: the verb's codename.
    """
    why = _refusal(job["user"], permission)
    if why is not None:
        raise NonRetryable(
            f"stopped: no longer allowed. {instance_id} was asked for by {job['actor']!r}, who {why}. "
            f"{job['done']} instances were done; the rest was left alone."
        )


def _refusal(user_key: str, permission: str) -> str | None:
    # Read for each step: a user object remembers its permissions.
    user: Any = get_user_model()._default_manager.filter(pk=user_key).first()
    if user is None:
        return "was deleted"
    if not user.is_active:
        return "is not active any more"
    if not getattr(user, "is_staff", False):
        return "is not staff any more"
    missing = [name for name in (VIEW, permission) if not user.has_perm(f"{APP}.{name}")]
    return f"lacks the permission {APP}.{missing[0]}" if missing else None
