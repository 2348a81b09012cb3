"""Spec part 4, as properties of every program in every world (Hypothesis).

DUROXIDE_EXAMPLES=5000 looks for new counter-examples; without it the same examples are tried each time.
"""

from __future__ import annotations

import contextlib
import os
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from duroxide_django.engine import futures
from duroxide_django.engine.failures import cancelled, poison
from duroxide_django.engine.outcome import EngineOptions
from duroxide_django.engine.turn import end_without_code
from duroxide_django.exceptions import NondeterminismError
from tests.engine.harness import Life
from tests.engine.programs import programs
from tests.engine.world import World

EXAMPLES = os.environ.get("DUROXIDE_EXAMPLES")

worlds = st.integers(0, 2**32).map(Random)
options = st.builds(EngineOptions, cancel_cleanup_turns=st.sampled_from([0, 1, 3, 20]), buffer_events=st.booleans())


def examples(number: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or number),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )


@examples(150)
@given(programs(), worlds, options)
def test_an_execution_that_is_kept_and_one_replayed_before_every_turn_commit_the_same(program, random, options):
    """Keeping the generator decides nothing: after every turn a replay comes to the kept execution's state."""
    kept = Life(program, 1, options=options)
    replayed = Life(program, 1, options=options, keeps=False)
    World([kept, replayed], random).play()


@examples(80)
@given(programs(), worlds, st.randoms(use_true_random=False))
def test_executions_may_be_lost_at_any_time(program, random, crashes):
    """A worker that forgets its executions now and then commits what one that keeps them does."""
    kept = Life(program, 1, checks=False)
    forgetful = Life(program, 1, checks=False)
    world = World([kept, forgetful], random)
    for _ in world.turns():
        forgetful.keeps = crashes.random() < 0.5


@examples(80)
@given(programs(), programs(), worlds)
def test_other_code_either_fits_a_history_or_is_a_mismatch(program, other, random):
    """Whatever is deployed over a running instance, the engine itself never breaks."""
    life = Life(program, 1, checks=False)
    for _ in World([life], random).turns():
        with contextlib.suppress(NondeterminismError):
            life.replayed(other)


@examples(80)
@given(programs(), worlds, st.booleans())
def test_an_instance_can_be_ended_without_its_code_at_any_time(program, random, is_cancel):
    """Poison, lost code and force: all that is in flight is cancelled, and the history still replays."""
    life = Life(program, 1, checks=False)
    for _ in World([life], random).turns():
        if life.result.outcome is not None:
            continue
        failure = cancelled("gone") if is_cancel else poison("orchestration order-1 exceeded 11 attempts")
        result = end_without_code(life.history, failure, life.now_ms, cancel_reason="gone" if is_cancel else None)
        assert set(result.cancelled_activities) >= set(life.activities)
        assert set(result.cancelled_timers) >= set(life.timers)
        told = {instance_id for instance_id, _ in (*result.cancelled_children, *life.cancelled_children)}
        assert told >= set(life.children.values())
        crumbs = {event.source_event_id for event in result.events} - {None}
        assert crumbs == {
            event_id for event_id, leaf in life.live.open.items() if not leaf.dropped and leaf.family != futures.TIMER
        }
        whole = [*life.history, *result.events]
        assert [event.event_id for event in whole] == list(range(1, len(whole) + 1))
        assert life.replayed(history=whole).ended
