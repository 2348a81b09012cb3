"""Spec 10.1 in the testing kit: sessions under drain()."""

from __future__ import annotations

import pytest


@pytest.fixture
def chatting(works):
    """Two activities of one session, an event between them."""
    works.recording("answer")

    @works.orchestration
    def chat(ctx, input):
        yield ctx.schedule_activity("answer", 1, session_id="chat-1")
        yield ctx.wait_for_event("more")
        return (yield ctx.schedule_activity("answer", 2, session_id="chat-1"))

    return works


class TestASession:
    @pytest.mark.parametrize("jump", [False, True])
    def test_goes_on_in_the_next_drain(self, chatting, jump):
        """Each drain() is the same worker: the clock need not move for the session to be served again."""
        chatting.start("c-1", "chat")
        chatting.client.raise_event("c-1", "more")
        chatting.run(jump=jump)
        assert chatting.output("c-1") == 2

    def test_is_served_within_one_drain(self, chatting):
        """Any number of its activities."""
        chatting.client.start_orchestration("c-1", "chat")
        chatting.client.raise_event("c-1", "more")
        chatting.run()
        assert chatting.output("c-1") == 2
