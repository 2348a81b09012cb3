"""The health server of a worker: liveness, readiness, and counters that Prometheus can read."""

from __future__ import annotations

import json
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from duroxide_django.runtime.health import Health, HealthServer, health_of, prometheus
from duroxide_django.runtime.metrics import MetricsSnapshot


@pytest.fixture
def serve():
    """Serve a runtime's health; return a function that asks for a path."""
    servers = []

    def serve(runtime):
        server = HealthServer(lambda: [health_of(runtime)], 0)
        servers.append(server)
        server.start()

        def get(path):
            try:
                with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
                    return answer.status, answer.headers["Content-Type"], answer.read().decode()
            except HTTPError as refused:
                return refused.code, refused.headers["Content-Type"], refused.read().decode()

        return get

    yield serve
    for server in servers:
        server.stop()


class TestMetrics:
    def test_are_readable_by_prometheus(self, client, program, start_runtime, serve, wait_until):
        """Every counter of the snapshot is a counter with the worker as its label, parsed by Prometheus' own client."""
        program.orchestration("Echo")(lambda ctx, input: input)
        runtime = start_runtime()
        get = serve(runtime)
        client.start_orchestration("echo-1", "Echo")
        client.wait_for_orchestration("echo-1")
        wait_until(lambda: runtime.metrics_snapshot().orch_completions == 1)
        status, content_type, text = get("/metrics")
        assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families.keys() == {f"duroxide_{name}" for name in MetricsSnapshot()}
        for name, value in runtime.metrics_snapshot().items():
            family = families[f"duroxide_{name}"]
            (sample,) = family.samples
            assert family.type == "counter"
            assert family.documentation
            assert sample.name == f"duroxide_{name}_total"
            assert sample.labels == {"worker": runtime.config.worker_id}
            assert sample.value == value

    def test_survive_an_odd_host_name(self):
        """Quotes, backslashes and line breaks are escaped."""
        odd = 'a"b\\c\nd'
        (family, *_) = text_string_to_metric_families(
            prometheus([Health(worker=odd, live=True, ready=True, counters={"orch_starts": 3})])
        )
        assert family.samples[0].labels == {"worker": odd}

    def test_are_none_of_a_runtime_that_does_not_run(self, program, serve):
        """Nothing to say, but an answer."""
        assert serve(program.runtime())("/metrics")[2] == ""


class TestProbes:
    def test_tell_a_running_worker_from_one_that_is_not(self, program, start_runtime, serve):
        """200 or 503, and who answers."""
        running, stopped = start_runtime(), program.runtime()
        for path, name in (("/live", "live"), ("/ready", "ready")):
            status, _, text = serve(running)(path)
            assert (status, json.loads(text)) == (200, {name: True, "workers": {running.config.worker_id: True}})
            status, _, text = serve(stopped)(path)
            assert (status, json.loads(text)[name]) == (503, False)

    def test_know_no_other_page(self, start_runtime, serve):
        """404 for anything else."""
        assert serve(start_runtime())("/admin")[0] == 404
