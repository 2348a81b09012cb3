"""Times and spans in words."""

from __future__ import annotations

import datetime as dt

from django.conf import settings
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def about(ms: int) -> str:
    """Return a span in its largest unit: ``3 h``."""
    if ms < MINUTE_MS:
        return duration(ms)
    for unit_ms in (DAY_MS, HOUR_MS, MINUTE_MS):
        if ms >= unit_ms:
            return duration(ms - ms % unit_ms)
    raise AssertionError(ms)


def duration(ms: int) -> str:
    """Return a span in its two largest units: ``3 h 5 min``."""
    if ms < SECOND_MS:
        return _("%(count)d ms") % {"count": max(ms, 0)}
    if ms < 10 * SECOND_MS:
        return _("%(count)s s") % {"count": formats.number_format(ms / SECOND_MS, 1)}
    if ms < MINUTE_MS:
        return _seconds(ms)
    if ms < HOUR_MS:
        return _two(_minutes(ms), _seconds(ms % MINUTE_MS))
    if ms < DAY_MS:
        return _two(_hours(ms), _minutes(ms % HOUR_MS))
    days = ms // DAY_MS
    return _two(ngettext("%(count)d day", "%(count)d days", days) % {"count": days}, _hours(ms % DAY_MS))


def _two(larger: str, smaller: str) -> str:
    return f"{larger} {smaller}".strip()


def _hours(ms: int) -> str:
    count = ms // HOUR_MS
    return _("%(count)d h") % {"count": count} if count else ""


def _minutes(ms: int) -> str:
    count = ms // MINUTE_MS
    return _("%(count)d min") % {"count": count} if count else ""


def _seconds(ms: int) -> str:
    count = ms // SECOND_MS
    return _("%(count)d s") % {"count": count} if count else ""


def moment(ms: int | None) -> dt.datetime | None:
    """Return epoch milliseconds as a datetime of the kind that this project uses."""
    if ms is None:
        return None
    aware = dt.datetime.fromtimestamp(ms / 1000, tz=dt.UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware, timezone.get_default_timezone())


def local_time(ms: int) -> dt.datetime:
    """Return epoch milliseconds in the time zone that people read."""
    return dt.datetime.fromtimestamp(ms / 1000, tz=timezone.get_current_timezone())


def clock(ms: int, now_ms: int) -> str:
    """Return a moment in words: the time, with the date if it is not within a day of now."""
    local = local_time(ms)
    if abs(ms - now_ms) < DAY_MS:
        return str(formats.time_format(local, "H:i:s"))
    return str(formats.date_format(local, "DATETIME_FORMAT"))


def size(chars: int) -> str:
    """Return a length in words."""
    return ngettext("%(count)s character", "%(count)s characters", chars) % {"count": formats.number_format(chars)}
