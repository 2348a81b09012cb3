"""What an adapter offers: its attributes to the harness, its methods to processes in the engine's environment."""

from dataclasses import dataclass, field
from typing import ClassVar

POSTGRES, SQLITE = "postgres", "sqlite"

#: Workflows every adapter has: one step; n steps; n steps at once; a mailbox; an event that doesn't come.
HELLO, SEQUENCE, FANOUT, MAILBOX, WAITING = "Hello", "Sequence", "FanOut", "Mailbox", "Waiting"

#: What a peer's adapter says of the workload `admin`.
NO_ADMIN = {"admin": "no Django admin"}


@dataclass(frozen=True, slots=True)
class Store:
    """Where an engine keeps its tables: a URL of an empty PostgreSQL database, or the path of a new SQLite file."""

    backend: str
    place: str


@dataclass(slots=True)
class Adapter:
    """One engine, as the workloads see it.

    Attributes:
        store: where its tables are.
        tuned: not with its defaults.
    """

    store: Store
    tuned: bool = False
    _open: object = field(default=None, init=False)

    #: Name of the package on PyPI, for its version.
    package: ClassVar[str]
    backends: ClassVar[tuple[str, ...]] = (POSTGRES, SQLITE)
    #: Counts of instances by state, seen by a look at the tables: neutral, as each engine's own waiting is not.
    ended_sql: ClassVar[str]
    waiting_sql: ClassVar[str]
    #: Workload -> why it can't be run; workload -> what is different.
    missing: ClassVar[dict[str, str]] = {}
    remarks: ClassVar[dict[str, str]] = {}
    #: Options that make it `tuned`; empty: there is nothing to tune.
    tuning: ClassVar[str] = ""
    #: How many waiting instances the idle workload makes.
    waiting_instances: ClassVar[int] = 100_000

    def prepare(self):
        """Create the tables."""
        raise NotImplementedError

    # In the client's process

    def start(self, instance, workflow, argument):
        """Start one instance in a transaction of its own, by one call."""
        raise NotImplementedError

    def start_many(self, instances, workflow, argument):
        """Start many instances at once; returns False if the engine has no call for it."""
        return False

    def wait(self, instance, timeout_s):
        """Wait, as this engine's clients do, until the instance has ended; returns its output."""
        raise NotImplementedError

    def open_mailbox(self, instance, messages):
        """Start what receives messages; returns how many instances wait then."""
        self.start(instance, MAILBOX, messages)
        return 1

    def send(self, instance, number, text):
        """Send message ``number`` (0, 1, …)."""
        raise NotImplementedError

    def reply(self, instance, number, timeout_s):
        """Wait until the reply to message ``number`` is seen; returns it."""
        raise NotImplementedError

    def fill_for_admin(self, instances, events):
        """Make a database of so many instances, one of them with so many events."""
        raise NotImplementedError

    def time_admin(self, runs):
        """Ask for each page of the admin so many times; see child.Calls."""
        raise NotImplementedError

    # In the worker's process

    def connect(self):
        """Do what comes before work(): import, connect, register."""
        raise NotImplementedError

    def work(self):
        """Start the worker in the background."""
        raise NotImplementedError

    def stop(self):
        """Stop the worker; the process ends afterwards, whatever happens here."""
