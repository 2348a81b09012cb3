"""The table and the JSON file."""

import json
import os
import platform
import time
from pathlib import Path

from benchmarks.engines import OURS, engine_class
from benchmarks.measures import Figure, ratio

NAMES = {"postgres": "PostgreSQL", "sqlite": "SQLite, one file"}


def machine():
    """Return what the figures depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def as_text(header, runner):
    """Return the tables, one for each backend, in Markdown."""
    lines = [f"{name.replace('_', ' ')}: {_one_line(value)}" for name, value in header.items()]
    for backend, rows in runner.rows.items():
        lines += ["", f"## {NAMES[backend]}", "", *_table(rows, runner.plan.engines)]
        lines += ["", *_notes(rows, runner, backend)]
    return "\n".join(lines) + "\n"


def _one_line(value):
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def _table(rows, engines):
    engines = [engine for engine in engines if any(engine in row.figures for row in rows.values())]
    bases = [name for name in engines if name != OURS] if OURS in engines else []
    head = ["", "unit", *engines, *(f"× {name}" for name in bases)]
    body = []
    notes = _numbered_notes(rows)
    for row in rows.values():
        cells = [_cell(row.figures.get(engine), notes) for engine in engines]
        ratios = [ratio(row.figures.get(OURS), row.figures.get(name), row.better) for name in bases]
        body.append([row.name, row.unit, *cells, *("" if value is None else number(value) for value in ratios)])
    return _aligned([head, *body])


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        # Texts to the left, figures to the right.
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = [("-" * width) if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def _cell(figure, notes):
    if figure is None:
        return "–"
    marks = "".join(f" [{notes[note]}]" for note in figure.notes)
    if figure.median is None:
        return f"–{marks}"
    if len(figure.values) == 1:
        return number(figure.median) + marks
    return f"{number(figure.median)} ({number(min(figure.values))}–{number(max(figure.values))}){marks}"


def number(value):
    """Return a figure with three significant digits, more if it is large."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"


def _numbered_notes(rows):
    numbers = {}
    for row in rows.values():
        for figure in row.figures.values():
            for note in figure.notes:
                numbers.setdefault(note, len(numbers) + 1)
    return numbers


def _notes(rows, runner, backend):
    lines = ["Median (lowest–highest of the runs). × is how many times better this project is than the engine."]
    lines += [f"[{mark}] {note}." for note, mark in _numbered_notes(rows).items()]
    for (at, workload, engine), why in runner.given_up.items():
        if at == backend:
            lines.append(f"Not had: {workload} of {engine}: {why}.")
    return lines


def as_json(header, runner):
    """Return everything as JSON-able data."""
    return {
        **header,
        "runs": runner.plan.runs,
        "results": [
            {
                "backend": backend,
                "workload": row.workload,
                "measure": row.name,
                "unit": row.unit,
                "better": row.better,
                "engines": {engine: figure.as_json() for engine, figure in row.figures.items()},
                "ratios": {
                    engine: ratio(row.figures.get(OURS, Figure()), figure, row.better)
                    for engine, figure in row.figures.items()
                    if engine != OURS
                },
            }
            for backend, rows in runner.rows.items()
            for row in rows.values()
        ],
        "not_had": [
            {"backend": backend, "workload": workload, "engine": engine, "why": why}
            for (backend, workload, engine), why in runner.given_up.items()
        ],
    }


def write_json(path, header, runner):
    """Write the JSON file."""
    Path(path).write_text(json.dumps(as_json(header, runner), indent=1, ensure_ascii=False) + "\n")


def tuning_of(engines):
    """Return what is not the default, by engine."""
    return {engine: engine_class(engine).tuning for engine in engines if engine.endswith("+tuned")}
