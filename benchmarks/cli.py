"""The command line: what to run, on what, and where the figures go."""

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks import environments, report
from benchmarks.databases import open_backends
from benchmarks.engines import OURS, PEERS, TUNED, base, base_name, engine_class
from benchmarks.measures import QUICK, Sizes
from benchmarks.processes import CallFailedError, Child
from benchmarks.runner import Plan, Runner, say
from benchmarks.workloads import WORKLOADS


def parse(arguments):
    """Return the options."""
    engines = [OURS, *PEERS, *(f"{peer}{TUNED}" for peer in PEERS)]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure this project, and its peers, in one run."
    )
    parser.add_argument("--peers", action="store_true", help="this project and its peers, each with its defaults")
    parser.add_argument(
        "--tuned", action="store_true", help="the peers once more, with the options they have for speed"
    )
    parser.add_argument("--engine", action="append", choices=engines, metavar="NAME", help=", ".join(engines))
    parser.add_argument("--backend", action="append", choices=[base.POSTGRES, base.SQLITE], help="default: both")
    parser.add_argument(
        "--only", action="append", choices=list(WORKLOADS), metavar="WORKLOAD", help=", ".join(WORKLOADS)
    )
    parser.add_argument("--runs", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--processes", type=int, default=1, help="worker processes (default: 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="stop a measurement that takes longer")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--dir", metavar="FOLDER", help="where databases are made (default: the system's)")
    parser.add_argument(
        "--here", action="store_true", help="this interpreter instead of environments of its own; for this project only"
    )
    return parser.parse_args(arguments)


def main(arguments):
    """Run what the command line says; returns the exit code: 1 if a measurement failed."""
    options = parse(arguments)
    if not options.here:
        environments.enter_harness(arguments)
    # Whoever ends it gets what there is, and nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    engines = chosen_engines(options)
    pythons, missing = interpreters(engines, here=options.here)
    engines = [engine for engine in engines if base_name(engine) in pythons]
    sizes = QUICK if options.quick else Sizes()
    if options.limit:
        sizes = with_limit(sizes, options.limit)
    plan = Plan(
        engines=engines,
        workloads=options.only or [name for name, workload in WORKLOADS.items() if not workload.extra],
        runs=options.runs,
        sizes=sizes,
        workers=options.processes,
        pythons=pythons,
        path=environments.folder_of_psql(),
    )
    header = report.machine()
    backends = options.backend or [base.POSTGRES, base.SQLITE]
    with open_backends(backends, postgres_url=os.environ.get("DATABASE_URL"), folder=options.dir) as (found, directory):
        header["databases"] = {name: database.version for name, database in found.items()}
        if base.POSTGRES in found:
            header["postgres_settings"] = found[base.POSTGRES].settings()
        header["versions"] = versions(pythons, directory)
        header["worker_processes"] = plan.workers
        if tuning := report.tuning_of(engines):
            header["tuning"] = tuning
        if missing:
            header["not_installed"] = missing
        runner = Runner(plan, directory)
        try:
            runner.run(found)
        except KeyboardInterrupt:
            header["interrupted"] = "the figures are those of the runs before"
    print(report.as_text(header, runner))
    if options.json:
        report.write_json(options.json, header, runner)
    expected = {"not on this database"}
    failed = [
        why
        for (_, workload, engine), why in runner.given_up.items()
        if why not in expected and why != engine_class(engine).missing.get(workload)
    ]
    return 1 if failed or "interrupted" in header else 0


def chosen_engines(options):
    """Return the engines' names, this project's first."""
    if options.engine:
        named = list(dict.fromkeys(options.engine))
    else:
        named = [OURS, *(PEERS if options.peers or options.tuned else ())]
    if options.tuned:
        named += [f"{name}{TUNED}" for name in named if name in PEERS]
    return named


def interpreters(engines, *, here):
    """Return the interpreter of each engine that can be installed, and why the others can't."""
    found, missing = {}, {}
    for name in dict.fromkeys(base_name(engine) for engine in engines):
        if here:
            found[name] = Path(sys.executable)
            continue
        try:
            found[name] = environments.ensure(name)
        except environments.NoEnvironmentError as exc:
            say(str(exc))
            missing[name] = str(exc).splitlines()[-1]
    return found, missing


def versions(pythons, directory):
    """Return the version of each engine, by name."""
    found = {}
    for name, python in pythons.items():
        child = Child(python, name, base.Store(base.SQLITE, ""), directory / f"{name}.log")
        try:
            found[name] = child.call("version")
        except CallFailedError:
            found[name] = "unknown"
        finally:
            child.end()
    return found


def with_limit(sizes, limit_s):
    """Return the same sizes with another limit."""
    from dataclasses import replace

    return replace(sizes, limit_s=limit_s)
