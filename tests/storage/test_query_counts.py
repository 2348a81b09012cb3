"""How many statements the work takes: by the batch, not by the instance (design 6)."""

from __future__ import annotations

import pytest
from django.db import connections

from duroxide_django import Client


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Add")(lambda ctx, pair: sum(pair))

    @program.orchestration("Sum")
    def add_up(ctx, pair):
        return (yield ctx.schedule_activity("Add", pair))

    @program.orchestration("Sequence")
    def sequence(ctx, steps):
        total = 0
        for _ in range(steps):
            total = yield ctx.schedule_activity("Add", [total, 1])
        return total

    @program.orchestration("FanOut")
    def fan_out(ctx, count):
        yield ctx.all([ctx.schedule_activity("Add", [n, 1]) for n in range(count)])


@pytest.fixture
def count(backend):
    """Count the statements of a call on this test's backend, those of transactions left out."""

    def count(call):
        sent = []

        def watch(execute, sql, *rest):
            if not sql.startswith(("SAVEPOINT", "RELEASE SAVEPOINT", "BEGIN", "COMMIT")):
                sent.append(sql)
            return execute(sql, *rest)

        with connections[backend].execute_wrapper(watch):
            call()
        return len(sent)

    return count


class TestClient:
    def test_writes_take_one_or_two_statements(self, client, backend, count):
        """A start is one statement on PostgreSQL and two on SQLite; a signal is one, a cancel takes the row first."""
        most = {"sqlite": 2, "postgres": 1}[backend]
        hint = {"sqlite": 0, "postgres": 1}[backend]  # NOTIFY after the commit
        assert count(lambda: client.start_orchestration("sum-1", "Sum", [1, 2])) <= most + hint
        assert count(lambda: client.raise_event("sum-1", "go")) <= 1 + hint
        assert count(lambda: client.enqueue_event("sum-1", "box")) <= 1 + hint
        assert count(lambda: client.cancel_instance("sum-1")) <= 2 + hint

    def test_reads_take_one_statement(self, client, program, count):
        """Status, information, history, KV: one query each."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        program.drain()
        for read in (
            lambda: client.get_status("sum-1"),
            lambda: client.get_instance_info("sum-1"),
            lambda: client.get_instance_infos(["sum-1", "sum-2"]),
            lambda: client.get_execution_info("sum-1", 1),
            lambda: client.list_executions("sum-1"),
            lambda: client.read_execution_history("sum-1", 1),
            lambda: client.get_kv_value("sum-1", "key"),
            lambda: client.get_kv_all_values("sum-1"),
            lambda: client.get_instance_tree("sum-1"),
            lambda: client.get_orchestration_stats("sum-1"),
            client.list_all_instances,
            lambda: client.list_instances_by_status("Completed"),
            lambda: client.wait_for_orchestration("sum-1"),
        ):
            assert count(read) == 1

    def test_deletion_takes_as_many_for_a_family_as_for_one(self, client, program, count):
        """The statements don't grow with the number of descendants."""

        @program.orchestration("Parent")
        def parent(ctx, children):
            yield ctx.all([ctx.schedule_sub_orchestration("Sum", [n, 1]) for n in range(children)])

        for children in (1, 12):
            client.start_orchestration(f"parent-{children}", "Parent", children)
        program.drain()
        few = count(lambda: client.delete_instance("parent-1"))
        assert count(lambda: client.delete_instance("parent-12")) == few


class TestWorker:
    def run(self, program, count):
        return count(lambda: program.drain(jump=False))

    def test_a_batch_of_starts_costs_as_much_as_one(self, client, backend, program, count):
        """Claiming and committing fifty first turns takes as many statements as one."""
        from duroxide_django import RuntimeOptions

        orchestrations_only = RuntimeOptions(worker_concurrency=0)

        def turns():
            return count(lambda: program.drain(jump=False, options=orchestrations_only))

        client.start_orchestration("one", "Sum", [1, 2])
        one = turns()
        for number in range(50):
            client.start_orchestration(f"sum-{number}", "Sum", [number, 1])
        assert turns() == one

    def test_a_wide_fan_out_is_inserted_at_once(self, client, program, count):
        """Hundreds of activities of one turn are one insert; beyond a thousand rows there is one for each thousand."""
        from duroxide_django import RuntimeOptions

        orchestrations_only = RuntimeOptions(worker_concurrency=0)
        counts = []
        for width in (1, 900):
            client.start_orchestration(f"fan-{width}", "FanOut", width)
            counts.append(count(lambda: program.drain(jump=False, options=orchestrations_only)))
        assert counts[0] == counts[1]

    def test_a_step_costs_the_same_however_long_the_history(self, client, program, count):
        """Live executions: the hundredth step reads no more than the tenth."""
        costs = []
        for steps in (5, 10, 20):
            client.start_orchestration(f"sequence-{steps}", "Sequence", steps)
            costs.append(self.run(program, count))
        assert (costs[2] - costs[1]) <= 2.2 * (costs[1] - costs[0])

    def test_a_loop_over_a_queue_reads_it_once(self, client, program, backend):
        """Each message has an execution of its own; reading what waits for each of them would be quadratic."""

        @program.orchestration("Entity")
        def entity(ctx, rounds):
            yield ctx.dequeue_event("box")
            if rounds:
                yield ctx.continue_as_new(rounds - 1)

        client.start_orchestration("entity-1", "Entity", 20)
        for number in range(30):
            client.enqueue_event("entity-1", "box", number)
        read = []

        def watch(execute, sql, *rest):
            read.extend([sql] if "data FROM duroxide_queue_message" in sql else [])
            return execute(sql, *rest)

        with connections[backend].execute_wrapper(watch):
            program.drain()
        assert client.get_status("entity-1").status == "Completed"
        assert len(read) <= 1

    def test_an_idle_look_is_cheap(self, client, program, count, backend):
        """Nothing to do: a handful of statements, and not one more with many waiting instances."""

        @program.orchestration("Waiting")
        def waiting(ctx, input):
            yield ctx.race(ctx.wait_for_event("never"), ctx.schedule_timer(3_600_000))

        idle = self.run(program, count)
        assert idle <= 6
        for number in range(50):
            Client(using=backend).start_orchestration(f"waiting-{number}", "Waiting")
        program.drain(jump=False)
        assert self.run(program, count) <= idle + 1
