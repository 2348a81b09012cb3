"""The guide's progress reports: ProvisionServer with its polling loop, and the key-value calls."""

from __future__ import annotations

import threading

import pytest

from duroxide_django import MAX_KV_KEYS, MAX_KV_VALUE_BYTES


def provision_program(runtime, gates):
    def wait_for_gate(name):
        assert gates[name].wait(20)

    @runtime.register_activity("ValidateConfig")
    def validate_config(ctx, input):
        wait_for_gate("ValidateConfig")

    @runtime.register_activity("CreateVM")
    def create_vm(ctx, input):
        wait_for_gate("CreateVM")
        return {"id": f"vm-{input['size']}"}

    @runtime.register_activity("InstallSoftware")
    def install_software(ctx, vm):
        wait_for_gate("InstallSoftware")

    @runtime.register_orchestration("ProvisionServer")
    def provision_server(ctx, input):
        ctx.set_custom_status("validating configuration")
        yield ctx.schedule_activity("ValidateConfig", input)

        ctx.set_custom_status("creating VM")
        vm = yield ctx.schedule_activity("CreateVM", input)

        ctx.set_custom_status("installing software")
        yield ctx.schedule_activity("InstallSoftware", vm)

        ctx.reset_custom_status()  # clear status when done
        return {"vm_id": vm["id"]}


@pytest.fixture
def gates():
    """Return a gate for each step; all are opened at the end."""
    steps = {name: threading.Event() for name in ("ValidateConfig", "CreateVM", "InstallSoftware")}
    yield steps
    for gate in steps.values():
        gate.set()


#: Which step to let go once a status has been seen.
NEXT_GATE = {
    "validating configuration": "ValidateConfig",
    "creating VM": "CreateVM",
    "installing software": "InstallSoftware",
}


class TestProvisionServer:
    """Program 14: a status line for the outside, and the loop that follows it."""

    def test_is_followed_by_the_polling_loop(self, client, start_runtime, gates, kinds):
        """The loop sees each status with its version, and ends with None when nothing changes any more."""
        start_runtime(provision_program, gates=gates)
        client.start_orchestration("prov-1", "ProvisionServer", {"size": "xl"})
        seen = []
        last_version = 0
        while True:
            patience_ms = 10000 if len(seen) < 4 else 300
            result = client.wait_for_status_change("prov-1", last_version, 50, patience_ms)
            if result is None:
                break  # timeout — orchestration may have completed
            seen.append((result.custom_status, result.custom_status_version))
            assert len(seen) <= 4, "the loop as printed never ends"
            last_version = result.custom_status_version
            if result.custom_status:
                gates[NEXT_GATE[result.custom_status]].set()
        assert seen == [
            ("validating configuration", 1),
            ("creating VM", 2),
            ("installing software", 3),
            (None, 4),
        ]
        result = client.wait_for_orchestration("prov-1")
        assert result.output == {"vm_id": "vm-xl"}
        assert (result.custom_status, result.custom_status_version) == (None, 4)
        assert kinds("prov-1") == [
            "OrchestrationStarted",
            *["CustomStatusUpdated", "ActivityScheduled", "ActivityCompleted"] * 3,
            "CustomStatusUpdated",
            "OrchestrationCompleted",
        ]

    def test_times_out_with_none_while_a_step_takes_its_time(self, client, start_runtime, gates, wait_until):
        """No change within the time: None; the status stays readable."""
        start_runtime(provision_program, gates=gates)
        client.start_orchestration("prov-1", "ProvisionServer", {"size": "xl"})
        assert client.wait_for_status_change("prov-1", 0, 50, 10000).custom_status_version == 1
        assert client.wait_for_status_change("prov-1", 1, 20, 100) is None
        assert client.get_status("prov-1").custom_status == "validating configuration"

    def test_keeps_status_and_version_over_a_restart(self, client, start_runtime, gates, kinds, wait_until):
        """A second runtime goes on counting; replayed status lines count no second time."""
        first = start_runtime(provision_program, gates=gates)
        client.start_orchestration("prov-1", "ProvisionServer", {"size": "xl"})
        gates["ValidateConfig"].set()
        wait_until(lambda: client.get_status("prov-1").custom_status == "creating VM")
        gates["CreateVM"].set()
        first.shutdown()
        start_runtime(provision_program, gates=gates)
        wait_until(lambda: client.get_status("prov-1").custom_status == "installing software")
        assert client.get_status("prov-1").custom_status_version == 3
        gates["InstallSoftware"].set()
        result = client.wait_for_orchestration("prov-1")
        assert (result.output, result.custom_status_version) == ({"vm_id": "vm-xl"}, 4)
        assert kinds("prov-1").count("CustomStatusUpdated") == 4


def key_value_program(runtime):
    @runtime.register_orchestration("KeyValues")
    def key_values(ctx, input):
        ctx.set_kv_value("a", "1")
        ctx.set_kv_value("b", '{"two": 2}')
        ctx.set_kv_value("c", "3")
        seen = {
            "get": ctx.get_kv_value("a"),
            "missing": ctx.get_kv_value("z"),
            "all": ctx.get_kv_all_values(),
            "keys": ctx.get_kv_all_keys(),
            "length": ctx.get_kv_length(),
        }
        ctx.clear_kv_value("c")
        seen["after clear"] = ctx.get_kv_all_keys()
        seen["pruned"] = ctx.prune_kv_values_updated_before(0)
        seen["other's"] = yield ctx.get_kv_value_from_instance("kv-other", "greeting")
        seen["nobody's"] = yield ctx.get_kv_value_from_instance("kv-nobody", "greeting")
        if input == "clear":
            ctx.clear_all_kv_values()
        return seen

    @runtime.register_orchestration("Other")
    def other(ctx, input):
        ctx.set_kv_value("greeting", "hello from the other")


class TestKeyValueCalls:
    """The list of key-value calls beside RequestServer."""

    def test_do_what_the_guide_says(self, client, start_runtime):
        """Every call of the orchestration's side gives what it was told, within one turn."""
        start_runtime(key_value_program)
        client.start_orchestration("kv-other", "Other", None)
        client.wait_for_orchestration("kv-other")
        client.start_orchestration("kv-1", "KeyValues", None)
        assert client.wait_for_orchestration("kv-1").output == {
            "get": "1",
            "missing": None,
            "all": {"a": "1", "b": '{"two": 2}', "c": "3"},
            "keys": ["a", "b", "c"],
            "length": 3,
            "after clear": ["a", "b"],
            "pruned": 0,
            "other's": "hello from the other",
            "nobody's": None,
        }

    def test_can_be_read_by_the_client(self, client, start_runtime):
        """The client reads text, or JSON by the typed calls, at once or when it comes."""
        start_runtime(key_value_program)
        client.start_orchestration("kv-1", "KeyValues", None)
        assert client.wait_for_kv_value("kv-1", "a", 10000) == "1"
        client.wait_for_orchestration("kv-1")
        assert client.get_kv_value("kv-1", "b") == '{"two": 2}'
        assert client.get_kv_value_typed("kv-1", "b") == {"two": 2}
        assert client.wait_for_kv_value_typed("kv-1", "b", 1000) == {"two": 2}
        assert client.get_kv_value("kv-1", "c") is None
        assert client.get_kv_value("no such instance", "a") is None

    def test_clear_everything(self, client, start_runtime):
        """After clear_all_kv_values the client finds nothing."""
        start_runtime(key_value_program)
        client.start_orchestration("kv-1", "KeyValues", "clear")
        client.wait_for_orchestration("kv-1")
        assert client.get_kv_all_values("kv-1") == {}

    def test_limits_are_those_of_the_guide(self):
        """The two limits are importable and have the printed values."""
        assert (MAX_KV_KEYS, MAX_KV_VALUE_BYTES) == (150, 65536)
