"""Findings: what needs a person's attention, as the checks of health and of the invariant report it."""

from __future__ import annotations

from dataclasses import dataclass

#: Findings that one rule reports at the most; more of the same don't tell more.
MAX_FINDINGS = 100

PROBLEM = "problem"
WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that needs attention.

    Attributes:
        rule: the rule that found it; stable, documented.
        severity: ``problem`` (something can't go on) or ``warning`` (it will go on later, or may not).
        subject: what it is about: an instance, an activity, a worker.
        why: what was found.
        cure: what to do.
        instance_id: the instance, or one of them.
        count: how many entries it stands for.
    """

    rule: str
    severity: str
    subject: str
    why: str
    cure: str
    instance_id: str | None = None
    count: int = 1
