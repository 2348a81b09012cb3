"""Hints: when the loop looks at a queue that it was told about (design section 6, waking up)."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest

from duroxide_django import wakeups
from duroxide_django.runtime.hints import LONGEST_PACE_S, PACE_S, Hints
from duroxide_django.wakeups import ACTIVITIES, ANYTHING, BUSY_PER_S, LOOK_AGAIN_S, QUIET_S, TURNS


def busy(hints, until):
    """Let looks give a lot for some time."""
    for step in range(100):
        hints.found(TURNS, 10, until - (100 - step) / BUSY_PER_S, plenty=False)
    return hints


class TestHints:
    def test_the_first_one_is_followed_at_once(self):
        """After a quiet time nobody waits."""
        hints = Hints()
        assert hints.take(10.0) == set()
        hints.add(TURNS, 10.0)
        assert hints.take(10.0) == {TURNS}
        assert hints.take(11.0) == set()

    def test_a_stream_of_them_is_paced(self):
        """What comes soon after a look that gave plenty shares the next one."""
        hints = busy(Hints(), until=10.0)
        hints.add(TURNS, 10.0)
        assert hints.take(10.0) == {TURNS}
        hints.add(TURNS, 10.0 + PACE_S / 3)
        assert hints.take(10.0 + PACE_S / 2) == set()
        assert hints.next_at() == 10.0 + PACE_S
        assert hints.take(10.0 + PACE_S) == {TURNS}

    def test_a_few_of_them_are_not(self):
        """A lone caller is answered at once, time and again."""
        hints = Hints()
        for step in range(100):
            now = 10.0 + step * 2 / BUSY_PER_S
            hints.add(TURNS, now)
            assert hints.take(now) == {TURNS}
            hints.found(TURNS, 1, now, plenty=False)

    def test_a_stream_that_ends_is_forgotten(self):
        """A second later nobody waits."""
        hints = busy(Hints(), until=10.0)
        hints.found(TURNS, 0, 11.0, plenty=False)
        for now in (11.0, 11.0 + PACE_S / 3):
            hints.add(TURNS, now)
            assert hints.take(now) == {TURNS}

    def test_one_queue_does_not_hold_up_the_other(self):
        """Each has its own pace."""
        hints = Hints()
        hints.add(TURNS, 10.0)
        hints.take(10.0)
        hints.add(ACTIVITIES, 10.0)
        assert hints.take(10.0) == {ACTIVITIES}

    def test_what_is_unknown_means_everything(self):
        """A newer version may send hints that this one doesn't know."""
        for what in (ANYTHING, "news"):
            hints = Hints()
            hints.add(what, 10.0)
            assert hints.take(10.0) == {TURNS, ACTIVITIES}

    def test_that_stands_for_others_is_followed_twice(self):
        """What that process commits without a hint, as it just gave one, is found by the second look."""
        hints = Hints()
        hints.add(TURNS, 10.0, bundled=True)
        assert hints.take(10.0) == {TURNS}
        assert hints.next_at() == 10.0 + LOOK_AGAIN_S
        assert hints.take(10.0 + LOOK_AGAIN_S) == {TURNS}
        assert hints.take(11.0) == set()
        assert hints.next_at() == float("inf")

    def test_a_look_at_everything_answers_them(self):
        """The poll has seen what they were about; a second look is still owed."""
        hints = Hints()
        hints.add(ANYTHING, 10.0, bundled=True)
        hints.take_all(10.0)
        assert hints.take(10.0 + PACE_S) == set()
        assert hints.take(10.0 + LOOK_AGAIN_S) == {TURNS, ACTIVITIES}

    def test_are_followed_more_slowly_by_workers_that_are_not_needed(self):
        """While the one that began first keeps up, the others look less often; plenty to do ends that."""
        hints = Hints()
        hints.leads = False
        now = 10.0
        for _ in range(10):
            now += 1
            hints.add(TURNS, now)
            assert hints.take(now) == {TURNS}
            hints.found(TURNS, 0, now, plenty=False)
        hints.add(TURNS, now + LONGEST_PACE_S / 2)
        assert hints.take(now + LONGEST_PACE_S / 2) == set()
        now += LONGEST_PACE_S
        assert hints.take(now) == {TURNS}
        hints.found(TURNS, 100, now, plenty=True)
        hints.add(TURNS, now + PACE_S)
        assert hints.take(now + PACE_S) == {TURNS}

    def test_are_followed_at_once_by_the_worker_that_leads(self):
        """Whatever it finds."""
        hints = Hints()
        for step in range(10):
            now = 10.0 + step * 2 * PACE_S
            hints.add(TURNS, now)
            assert hints.take(now) == {TURNS}
            hints.found(TURNS, 0, now, plenty=False)

    def test_polls_that_find_nothing_slow_nobody_down(self):
        """An idle worker follows the next hint as fast as ever."""
        hints = Hints()
        hints.leads = False
        for second in range(10):
            hints.take_all(10.0 + second)
            hints.found(TURNS, 0, 10.0 + second, plenty=False)
        hints.add(TURNS, 19.0 + PACE_S)
        assert hints.take(19.0 + PACE_S) == {TURNS}

    def test_the_second_look_comes_after_the_silence(self):
        """Otherwise it could miss what was committed at its end."""
        assert wakeups.LOOK_AGAIN_S > QUIET_S


class TestRate:
    def test_follows_what_happens(self):
        """Two hundred a second for a second."""
        rate = wakeups.Rate()
        assert rate.per_s(10.0) == 0
        for step in range(200):
            rate.add(10.0 + step / 200)
        assert 150 < rate.per_s(11.0) < 250
        assert rate.per_s(12.0) < 1

    def test_of_something_that_comes_in_heaps(self):
        """Forty at a time, ten times a second."""
        rate = wakeups.Rate()
        for step in range(20):
            rate.add(10.0 + step / 10, 40)
        assert rate.per_s(12.0) > 50


class TestGiving:
    """What other processes are told, in one that starts instances (PostgreSQL's NOTIFY)."""

    @pytest.fixture
    def given(self, client, backend, monkeypatch):
        """Return the hints that starts give at times by the monotonic clock."""
        monkeypatch.setattr(wakeups, "_given", defaultdict(wakeups._Given))
        hints = []
        monkeypatch.setattr(wakeups, "notify", lambda db, hint: hints.append(hint))

        def start(moments):
            for moment in moments:
                monkeypatch.setattr(wakeups, "time", SimpleNamespace(monotonic=lambda moment=moment: moment))
                wakeups.announce(client.db)
            found, hints[:] = [wakeups.parse(hint) for hint in hints], []
            return found

        return start

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_each_start_is_told_while_there_are_few(self, given):
        """Nobody has to look twice."""
        assert given([10.0, 10.1, 10.11, 10.2]) == [(TURNS, False)] * 4

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_a_stream_is_bundled(self, given):
        """A thousand starts a second give a hundred hints or less, each of which says that it stands for more."""
        found = given([10.0 + step / 1000 for step in range(1000)])
        assert 1 / QUIET_S / 2 < len(found) <= 1 / QUIET_S + 20
        assert found[-1] == (TURNS, True)

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_no_start_of_a_stream_is_left_unsaid(self, given):
        """It is told, or follows a hint that makes workers look again after it."""
        told = []
        for step in range(300):
            now = 10.0 + step / 1000
            for _, bundled in given([now]):
                told.append((now, bundled))
            assert told[-1][0] == now or (told[-1][1] and now < told[-1][0] + LOOK_AGAIN_S)
