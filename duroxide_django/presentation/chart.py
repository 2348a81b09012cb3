"""The overview's chart: starts, completions and failures hour by hour, placed for SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils import formats
from django.utils.translation import gettext as _

from duroxide_django.presentation.texts import HOUR_MS, local_time

HOURS = 24
#: Size of the drawing in its own units.
HEIGHT = 120
HOUR_WIDTH = 20
_BAR_WIDTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One bar: place and size in the drawing's units."""

    kind: str
    x: int
    y: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The bars of one hour, with their numbers in words."""

    x: int
    label: str
    title: str
    columns: Sequence[Column]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The whole drawing; ``highest`` is the largest number in it."""

    hours: Sequence[Hour]
    highest: int
    width: int = HOURS * HOUR_WIDTH
    height: int = HEIGHT


def chart(counts: Sequence[tuple[int, int, int, int]], first_hour: int) -> Chart:
    """Return the chart of (hour since the epoch, started, completed, failed) from ``first_hour`` on."""
    by_hour = {hour: (started, completed, failed) for hour, started, completed, failed in counts}
    highest = max((max(numbers) for numbers in by_hour.values()), default=0)
    hours = [
        _hour(index, first_hour + index, by_hour.get(first_hour + index, (0, 0, 0)), highest) for index in range(HOURS)
    ]
    return Chart(hours=hours, highest=highest)


def _hour(index: int, hour: int, numbers: tuple[int, int, int], highest: int) -> Hour:
    x = index * HOUR_WIDTH
    columns = []
    for place, (kind, number) in enumerate(zip(("started", "completed", "failed"), numbers, strict=True)):
        height = max(2, round((HEIGHT - 4) * number / highest)) if number else 0
        columns.append(Column(kind=kind, x=x + 2 + place * (_BAR_WIDTH + 1), y=HEIGHT - height, height=height))
    label = str(formats.time_format(local_time(hour * HOUR_MS), "H:i"))
    title = _("%(hour)s: %(started)d started, %(completed)d completed, %(failed)d failed") % {
        "hour": label, "started": numbers[0], "completed": numbers[1], "failed": numbers[2],
    }  # fmt: skip
    return Hour(x=x, label=label, title=title, columns=columns)
