"""A PgBouncer in front of a test's PostgreSQL. Debian's package; .ci/run installs it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.postgres import UNPRIVILEGED_USER, PostgresServer, free_port, is_free, unprivileged


class PgBouncer:
    """One pooler that lives in one directory.

    Attributes:
        mode: ``session`` or ``transaction``.
        settings: further lines of ``pgbouncer.ini``.
    """

    def __init__(self, server: PostgresServer, mode: str, **settings: str | int) -> None:
        self.server = server
        self.mode = mode
        self.settings = settings
        self.port = 0
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def program() -> str | None:
        """Return where the program is, or None if it is not installed."""
        return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def url(self, database: str = "postgres") -> str:
        """Return the DATABASE_URL of ``database`` through this pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> PgBouncer:
        """Start it and wait until it listens."""
        program = self.program()
        assert program is not None, "Install PgBouncer: apt-get install pgbouncer."
        self.port = self.port or free_port()
        self._directory = directory = Path(tempfile.mkdtemp(prefix="duroxide-pgbouncer-"))
        (directory / "users.txt").write_text('"postgres" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": directory / "users.txt",
            "admin_users": "postgres",
            "pool_mode": self.mode,
            "max_client_conn": 500,
            # What libpq sends at the start; PgBouncer refuses what it does not know.
            "ignore_startup_parameters": "extra_float_digits,options",
            **self.settings,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        place = f"* = host=127.0.0.1 port={self.server.port}\n"
        (directory / "pgbouncer.ini").write_text(f"[databases]\n{place}[pgbouncer]\n{lines}")
        if os.geteuid() == 0:
            account = pwd.getpwnam(UNPRIVILEGED_USER)
            for path in (directory, *directory.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        with (directory / "pgbouncer.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, str(directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **unprivileged(),
            )
        deadline = time.monotonic() + 10
        while is_free(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start: {(directory / 'pgbouncer.log').read_text()}")
            time.sleep(0.02)
        return self

    def restart(self, after_s: float = 0.0) -> None:
        """Kill it, and start it again on its port ``after_s`` seconds later."""
        self.stop()
        time.sleep(after_s)
        self.start()

    def stop(self) -> None:
        """Stop it at once and remove its directory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
