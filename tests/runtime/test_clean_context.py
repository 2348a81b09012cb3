"""What one function sets for itself (tenant, language, decimal precision, log fields) is not seen by another."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
from contextvars import ContextVar

import pytest
import structlog
from django.utils import timezone, translation

from duroxide_django.testing import run_orchestration, virtual_clock

TENANT = ContextVar("tenant", default="nobody")
HONOLULU = dt.timezone(dt.timedelta(hours=-10), "HST")
#: What a function sees that nobody has set anything for.
CLEAN = ["nobody", "en-us", "UTC", 28, {}]


def settings_seen():
    """Return what the running function sees; ids that the worker binds to log lines are left out."""
    bound = structlog.contextvars.get_contextvars()
    return [
        TENANT.get(),
        translation.get_language(),
        timezone.get_current_timezone_name(),
        decimal.getcontext().prec,
        {key: value for key, value in bound.items() if key == "tenant"},
    ]


def set_everything(tenant="acme"):
    TENANT.set(tenant)
    translation.activate("de")
    timezone.activate(HONOLULU)
    decimal.getcontext().prec = 3
    structlog.contextvars.bind_contextvars(tenant=tenant)


@pytest.fixture(autouse=True)
def workflows(program, settings):
    settings.TIME_ZONE = "UTC"

    @program.activity("Set")
    def set_(ctx, input):
        set_everything()

    @program.activity("SetAsync")
    async def set_async(ctx, input):
        set_everything()

    @program.activity("Look")
    def look(ctx, input):
        return settings_seen()

    @program.activity("LookAsync")
    async def look_async(ctx, input):
        return settings_seen()

    @program.activity("LookAtomic", atomic=True)
    def look_atomic(ctx, input):
        return settings_seen()

    @program.orchestration("Setting")
    def setting(ctx, input):
        set_everything("of the orchestration")
        yield ctx.schedule_activity("Look")
        return settings_seen()

    @program.orchestration("Looking")
    def looking(ctx, names):
        seen = [settings_seen()]
        for name in names:
            result = yield ctx.schedule_activity(name)
            if result is not None:
                seen.append(result)
        return [*seen, settings_seen()]


@pytest.fixture(params=["threads", "drain"])
def run(request, program, start_runtime):
    """Run what was started: by a runtime with a single slot, or by drain()."""

    def run(client, *instance_ids):
        if request.param == "threads":
            start_runtime(worker_concurrency=1)
        else:
            program.drain()
        return [client.wait_for_orchestration(instance_id).output for instance_id in instance_ids]

    return run


@pytest.mark.parametrize("setter", ["Set", "SetAsync"])
@pytest.mark.parametrize("looker", ["Look", "LookAsync", "LookAtomic"])
def test_an_activity_sees_nothing_of_the_one_before(client, run, setter, looker):
    """In the same slot, or in the same event loop."""
    client.start_orchestration("o-1", "Looking", [setter, looker])
    assert run(client, "o-1") == [[CLEAN, CLEAN, CLEAN]]


def test_an_async_activity_that_waited_for_a_slot_sees_nothing_of_the_one_that_made_room(
    client, program, start_runtime
):
    """The task that ends begins the next one."""
    seen = []

    @program.activity("Each")
    async def each(ctx, input):
        seen.append(settings_seen())
        set_everything()
        await asyncio.sleep(0)

    @program.orchestration("Many")
    def many(ctx, input):
        yield ctx.all([ctx.schedule_activity("Each") for _ in range(5)])

    client.start_orchestration("many-1", "Many")
    start_runtime(worker_concurrency=1)
    client.wait_for_orchestration("many-1")
    assert seen == [CLEAN] * 5


def test_what_an_orchestration_sets_is_its_own(client, run):
    """It sees it until its end, also after a replay; another one and the activities don't."""
    client.start_orchestration("setting-1", "Setting")
    client.start_orchestration("looking-1", "Looking", ["Look"])
    own, other = run(client, "setting-1", "looking-1")
    assert own == ["of the orchestration", "de", "HST", 3, {"tenant": "of the orchestration"}]
    assert other == [CLEAN, CLEAN, CLEAN]


@pytest.mark.parametrize("every_turn", [True, False])
def test_a_replay_finds_what_the_function_has_set(client, program, settings, every_turn):
    """Thrown away after each turn, it computes the same."""
    settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": every_turn}

    @program.orchestration("Dividing")
    def dividing(ctx, input):
        decimal.getcontext().prec = 5
        yield ctx.schedule_activity("Set")
        yield ctx.schedule_timer(1_000)
        return str(decimal.Decimal(1) / 3)

    client.start_orchestration("dividing-1", "Dividing")
    program.drain()
    assert client.get_status("dividing-1").output == "0.33333"


def test_a_test_keeps_its_own_and_hands_nothing_on(client, program):
    """What runs in drain() sees what it would see in a worker."""
    token = TENANT.set("of the test")
    try:
        with translation.override("fr"), decimal.localcontext(decimal.Context(prec=7)):
            client.start_orchestration("o-1", "Looking", ["Set", "Look", "SetAsync", "LookAsync"])
            client.start_orchestration("setting-1", "Setting")
            program.drain()
            assert client.get_status("o-1").output == [CLEAN] * 4
            assert (TENANT.get(), translation.get_language(), decimal.getcontext().prec) == ("of the test", "fr", 7)
    finally:
        TENANT.reset(token)


def test_run_orchestration_is_as_clean():
    """The pure simulation too."""

    def looking(ctx, input):
        seen = settings_seen()
        set_everything()
        yield ctx.schedule_timer(1)
        return [seen, settings_seen()[0]]

    with translation.override("fr"):
        assert run_orchestration(looking).output == [CLEAN, "acme"]
        assert settings_seen()[:2] == ["nobody", "fr"]


def test_clean_up_of_a_generator_runs_in_its_own_context(client, program):
    """`finally` blocks of an execution that is thrown away change nothing of the worker's."""

    @program.orchestration("Held")
    def held(ctx, input):
        try:
            yield ctx.wait_for_event("never")
        finally:
            set_everything()

    client.start_orchestration("held-1", "Held")
    program.drain(jump=False)
    client.start_orchestration("o-1", "Looking", [])
    program.drain(jump=False)
    assert client.get_status("o-1").output == [CLEAN, CLEAN]
    assert settings_seen() == CLEAN


def test_functions_may_move_the_virtual_clock(client, program):
    """What takes a while in production takes virtual time in a test."""

    @program.activity("Long")
    def long(ctx, input):
        clock.advance(minutes=5)

    @program.orchestration("Timed")
    def timed(ctx, input):
        before = yield ctx.utc_now()
        clock.advance(seconds=1)
        yield ctx.schedule_activity("Long")
        return (yield ctx.utc_now()) - before

    with virtual_clock() as clock:
        client.start_orchestration("timed-1", "Timed")
        program.drain()
        assert client.get_status("timed-1").output == 301_000
