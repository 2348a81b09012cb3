"""RuntimeOptions: what is refused when malformed, and which setting each option stands in for."""

from __future__ import annotations

import pytest

from duroxide_django import InvalidArgument, Runtime, RuntimeOptions
from duroxide_django.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orchestration_concurrency": -1}, "orchestration_concurrency must be a whole number of at least 0, got -1"),
        ({"worker_concurrency": 1.5}, "worker_concurrency must be a whole number of at least 0, got 1.5"),
        ({"worker_concurrency": True}, "worker_concurrency must be a whole number"),
        ({"worker_concurrency": "4"}, "worker_concurrency must be a whole number"),
        ({"dispatcher_poll_interval_ms": 0}, "dispatcher_poll_interval_ms must be a whole number of at least 1, got 0"),
        ({"worker_lock_timeout_ms": -5}, "worker_lock_timeout_ms must be a whole number of at least 1"),
        ({"max_sessions_per_runtime": 0}, "max_sessions_per_runtime must be a whole number of at least 1"),
        ({"session_idle_timeout_ms": None, "worker_node_id": ""}, "worker_node_id must not be empty"),
        ({"worker_node_id": 7}, "worker_node_id must be a str, got int"),
        ({"worker_node_id": "n" * 256}, "worker_node_id may have 255 characters at most"),
        ({"log_format": "xml"}, "log_format must be json, pretty or compact, got 'xml'"),
        ({"log_level": "loud"}, "log_level must be one of trace, debug, info, warn, warning, error, got 'loud'"),
        ({"worker_tag_filter": "gpu"}, "no tag filter"),
        ({"serial_sessions": "yes"}, "serial_sessions must be True or False, got 'yes'"),
        ({"service_name": 5}, "service_name must be a str, got int"),
        ({"service_version": 1.0}, "service_version must be a str, got float"),
    ],
)
def test_a_malformed_option_is_refused(options, message):
    """When it is made, by a message that says what was expected."""
    with pytest.raises(InvalidArgument, match=message):
        RuntimeOptions(**options)


def test_an_unknown_option_is_refused():
    """A misspelt option is a TypeError, as with any Python call."""
    with pytest.raises(TypeError, match="worker_concurency"):
        RuntimeOptions(worker_concurency=4)


def test_every_option_of_the_guide_is_accepted(backend):
    """All of them together, as in the user guide."""
    options = RuntimeOptions(
        orchestration_concurrency=4,
        worker_concurrency=8,
        dispatcher_poll_interval_ms=100,
        worker_lock_timeout_ms=30_000,
        log_level="INFO",
        log_format="pretty",
        service_name="my-service",
        service_version="1.0.0",
        max_sessions_per_runtime=10,
        session_idle_timeout_ms=300_000,
        worker_node_id="pod-name",
        worker_tag_filter="any",
        serial_sessions=True,
    )
    config = Runtime(options=options, using=backend).config
    assert (config.slots, config.poll_ms, config.activity_lease_ms) == (8, 100, 30_000)
    assert (config.max_sessions, config.session_idle_ms, config.owner) == (10, 300_000, "pod-name")
    assert (config.runs_orchestrations, config.runs_activities, config.serial_sessions) == (True, True, True)


def test_what_is_left_out_comes_from_the_settings(backend, settings):
    """An option beats the setting, the setting beats the default."""
    settings.DUROXIDE = {**settings.DUROXIDE, "WORKER_CONCURRENCY": 3, "POLL_INTERVAL_MS": 77, "WORKER_NODE_ID": "n"}
    config = Runtime(options=RuntimeOptions(worker_concurrency=5), using=backend).config
    assert (config.slots, config.poll_ms, config.owner) == (5, 77, "n")
    assert config.max_sessions == 10


def test_a_wrong_setting_is_refused_when_the_runtime_is_made(backend, settings):
    """Not later, in a background thread."""
    settings.DUROXIDE = {**settings.DUROXIDE, "MAX_ATTEMPTS": 0}
    with pytest.raises(ConfigurationError, match=r"DUROXIDE\['MAX_ATTEMPTS'\] must be a whole number above 0, got 0"):
        Runtime(using=backend)


def test_every_runtime_has_an_identity_of_its_own(backend):
    """Two runtimes of one process are two workers."""
    first, second = Runtime(using=backend).config, Runtime(using=backend).config
    assert first.worker_id != second.worker_id
    assert first.owner == first.worker_id
