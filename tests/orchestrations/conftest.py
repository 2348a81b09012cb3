"""What these tests share: workflows on the database under test, run by drain() under a clock that jumps."""

from __future__ import annotations

import pytest

from duroxide_django.engine.registry import Registry
from duroxide_django.engine.versions import DEFAULT_VERSION
from duroxide_django.testing import drain, virtual_clock

#: Where the virtual clock stands at first, epoch milliseconds.
T0 = 1_700_000_000_000


class Workflows:
    """A registry, a client and a clock; the functions of a test are registered under their own names.

    Attributes:
        calls: what activities made by ``recording`` were given.
    """

    def __init__(self, client, clock, settings):
        self.client = client
        self.clock = clock
        self.settings = settings
        self.registry = Registry()
        self.calls = []

    # Registering

    def orchestration(self, function=None, *, name=None, version=DEFAULT_VERSION):
        """Register an orchestration, as a decorator."""
        if function is None:
            return lambda decorated: self.orchestration(decorated, name=name, version=version)
        self.registry.add_orchestration(name or function.__name__, function, version)
        return function

    def activity(self, function=None, *, name=None):
        """Register an activity, as a decorator."""
        if function is None:
            return lambda decorated: self.activity(decorated, name=name)
        self.registry.add_activity(name or function.__name__, function)
        return function

    def recording(self, name, gives=lambda input: input):
        """Register an activity that notes its input and gives what ``gives`` makes of it."""

        def activity(ctx, input):
            self.calls.append(input)
            return gives(input)

        self.registry.add_activity(name, activity)

    def deploy(self):
        """Forget all functions: what is registered from now on is the next release."""
        self.registry = Registry()

    def configure(self, **changes):
        """Change settings of DUROXIDE."""
        self.settings.DUROXIDE = {**self.settings.DUROXIDE, **changes}

    # Running

    def start(self, instance_id, name, input=None, **options):
        """Start an instance and run what is due."""
        self.client.start_orchestration(instance_id, name, input, **options)
        return self.run()

    def run(self, **options):
        """Run everything that is due now; the clock stands still."""
        return drain(using=self.client.db.alias, registry=self.registry, **{"jump": False, **options})

    def finish(self, **options):
        """Run everything, letting the clock jump from timer to timer."""
        return self.run(jump=True, max_steps=20_000, **options)

    def advance(self, **time):
        """Move the clock and run what is due then."""
        self.clock.advance(**time)
        return self.run()

    # Looking

    def status(self, instance_id):
        return self.client.get_status(instance_id)

    def output(self, instance_id):
        """Return the output of an instance that must have completed."""
        result = self.status(instance_id)
        assert result.status == "Completed", (result.status, result.error)
        return result.output

    def error(self, instance_id):
        """Return the error of an instance that must have failed."""
        result = self.status(instance_id)
        assert result.status == "Failed", (result.status, result.output)
        return result.error

    def history(self, instance_id, execution_id=1):
        return self.client.read_execution_history(instance_id, execution_id)

    def kinds(self, instance_id, execution_id=1):
        return [event.kind for event in self.history(instance_id, execution_id)]

    def row(self, instance_id):
        from duroxide_django.models import Instance

        return Instance.objects.using(self.client.db.alias).get(instance_id=instance_id)

    def queued(self):
        """Return how many messages and activities wait, due or not."""
        from duroxide_django.models import ActivityTask, Message

        alias = self.client.db.alias
        return Message.objects.using(alias).count(), ActivityTask.objects.using(alias).count()


@pytest.fixture(params=["kept", "replayed"])
def works(request, client, settings):
    """Workflows on an empty database, with live executions kept between turns or replayed before each."""
    if request.param == "replayed":
        settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": True}
    with virtual_clock(T0) as clock:
        made = Workflows(client, clock, settings)
        yield made
