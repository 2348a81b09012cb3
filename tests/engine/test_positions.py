"""Where an execution stands in its code."""

from __future__ import annotations

from tests.engine.harness import Life


def line_of(function, text):
    import inspect

    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def helper(ctx):
    return (yield ctx.wait_for_event("inner"))  # waits here


def test_each_open_yield_tells_its_frames_and_what_it_waits_for():
    def block(ctx):
        yield ctx.schedule_timer(5_000)  # the block

    def flow(ctx, value):
        yield ctx.race(ctx.wait_for_event("Go"), block(ctx), ctx.schedule_activity("Work"))  # the race

    life = Life(flow)
    life.start()
    outer, inner = life.live.open_yields()
    assert [frame.line for frame in outer.frames] == [line_of(flow, "# the race")]
    assert [waited[:2] for waited in outer.waits_for] == [("event", "Go"), ("activity", "Work")]
    assert (outer.is_block, inner.is_block) == (False, True)
    assert [frame.line for frame in inner.frames] == [line_of(block, "# the block")]
    assert [waited[0] for waited in inner.waits_for] == ["timer"]


def test_yield_from_gives_all_frames_outermost_first():
    def flow(ctx, value):
        yield from helper(ctx)  # the caller

    life = Life(flow)
    life.start()
    (item,) = life.live.open_yields()
    assert [(frame.function.rpartition(".")[2], frame.line) for frame in item.frames] == [
        ("flow", line_of(flow, "# the caller")),
        ("helper", line_of(helper, "# waits here")),
    ]


def test_a_retry_loop_counts_as_its_activity():
    def flow(ctx, value):
        yield ctx.schedule_activity_with_retry("Work", None, {"max_attempts": 3})

    life = Life(flow)
    life.start()
    (item,) = life.live.open_yields()
    assert [waited[:2] for waited in item.waits_for] == [("activity", "Work")]
    assert len(item.frames) == 1


def test_an_ended_execution_stands_nowhere():
    def flow(ctx, value):
        yield ctx.schedule_timer(0)

    life = Life(flow)
    life.start()
    life.live.close()
    assert life.live.open_yields() == []
