"""What a stranger may learn from a worker's health endpoint: nothing that users handed over."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from duroxide_django.runtime.health import HealthServer, health_of

SECRET = "plainsecret"


@pytest.fixture
def server(program, client, start_runtime):
    @program.activity("Work")
    def work(ctx, value):
        raise ValueError(value)

    @program.orchestration("Flow")
    def flow(ctx, value):
        ctx.set_custom_status(SECRET)
        ctx.set_kv_value(SECRET, SECRET)
        yield ctx.schedule_activity("Work", value)

    runtime = start_runtime()
    client.start_orchestration(SECRET, "Flow", SECRET)
    client.wait_for_orchestration(SECRET, 10_000)
    made = HealthServer(lambda: [health_of(runtime)], 0)
    made.start()
    yield made
    made.stop()


def get(server, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}") as response:
            return response.status, str(response.headers), response.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, str(exc.headers), exc.read().decode()


def test_listens_on_loopback_unless_told_otherwise(server):
    assert server._server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/live", "/ready", "/metrics", "/", "/../etc/passwd", "/live?x=1", "/<script>"])
def test_says_nothing_of_instances_nor_of_the_machine(server, path):
    status, headers, body = get(server, path)
    assert status == (200 if path in ("/live", "/ready", "/metrics") else 404)
    assert SECRET not in headers + body
    assert "Python" not in headers
    assert "script" not in body


def test_takes_no_other_requests(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 501 " in connection.recv(1_000)


def test_a_client_that_says_nothing_does_not_keep_others_waiting(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        assert get(server, "/live")[0] == 200
