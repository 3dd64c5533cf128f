"""NodeConfig: read once from an environment that is passed in; a wrong value names its variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from glowplug.runtime.config import Limits, NodeConfig
from glowplug.runtime.errors import StateError


def test_defaults_are_loopback_port_9000_and_the_users_state_directory() -> None:
    config = NodeConfig.from_env({"HOME": "/home/u"})
    assert ("127.0.0.1", 9000, None) == (config.host, config.port, config.public_port)
    assert Path("/home/u/.local/state/glowplug") == config.state
    assert config.state / "cache" == config.cache
    assert config.cores >= 1


def test_variables_are_read_and_options_win() -> None:
    environ = {
        "GLOWPLUG_HOME": "/s",
        "GLOWPLUG_PORT": "8000",
        "GLOWPLUG_CACHE": "/c",
        "GLOWPLUG_HOSTS": "a.test, B.test",
    }
    config = NodeConfig.from_env(environ, port=8001, public_port=None)
    assert (Path("/s"), Path("/c"), 8001, None) == (config.state, config.cache, config.port, config.public_port)
    assert ("a.test", "b.test") == config.hosts
    assert Path("/t") == NodeConfig.from_env(environ, state="/t").state


def test_hosts_of_webhooks_are_names_with_or_without_a_port() -> None:
    environ = {"HOME": "/h", "GLOWPLUG_WEBHOOK_HOSTS": "Hooks.Example, *.lan:8080,[::1]:90,*"}
    assert ("hooks.example", "*.lan:8080", "[::1]:90", "*") == NodeConfig.from_env(environ).webhook_hosts
    assert () == NodeConfig.from_env({"HOME": "/h"}).webhook_hosts


@pytest.mark.parametrize(
    ("text", "size"),
    [("500000000", 500_000_000), ("500M", 500 * 1024**2), ("20g", 20 * 1024**3), ("1T", 1024**4), ("64K", 65536)],
)
def test_sizes_are_bytes_or_have_a_suffix_that_is_a_power_of_1024(text: str, size: int) -> None:
    config = NodeConfig.from_env({"HOME": "/h", "GLOWPLUG_CACHE_BYTES": text, "GLOWPLUG_CACHE_RESERVE_BYTES": text})
    assert (size, size) == (config.cache_bytes, config.cache_reserve_bytes)


def test_without_a_budget_the_cache_decides() -> None:
    config = NodeConfig.from_env({"HOME": "/h"})
    assert (None, None) == (config.cache_bytes, config.cache_reserve_bytes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLOWPLUG_PORT", "http"),
        ("GLOWPLUG_DRAIN_SECONDS", "soon"),
        ("GLOWPLUG_PRELOAD_TORCH", "maybe"),
        ("GLOWPLUG_PROT", "9000"),
        ("GLOWPLUG_LIMIT_SYNC_REQUEST_BYTES", "6MB"),
        ("GLOWPLUG_LIMIT_NOTHING", "6"),
        ("GLOWPLUG_CACHE_BYTES", "20 G"),
        ("GLOWPLUG_CACHE_BYTES", "20GB"),
        ("GLOWPLUG_CACHE_BYTES", "1.5G"),
        ("GLOWPLUG_CACHE_BYTES", "0"),
        ("GLOWPLUG_CACHE_RESERVE_BYTES", "-1"),
        ("GLOWPLUG_CACHE_RESERVE_BYTES", "G"),
        ("GLOWPLUG_CORES", "0"),
        ("GLOWPLUG_CORES", "-1"),
        ("GLOWPLUG_PORT", "65536"),
        ("GLOWPLUG_PORT", "-1"),
        ("GLOWPLUG_PUBLIC_PORT", "70000"),
        ("GLOWPLUG_DRAIN_SECONDS", "-0.5"),
        ("GLOWPLUG_DRAIN_SECONDS", "inf"),
        ("GLOWPLUG_STOP_GRACE_SECONDS", "nan"),
        ("GLOWPLUG_UID_BASE", "0"),
        ("GLOWPLUG_ACCOUNT_ID", "me"),
        ("GLOWPLUG_REGION", "us east"),
        ("GLOWPLUG_WEBHOOK_HOSTS", "https://example.com"),
        ("GLOWPLUG_WEBHOOK_HOSTS", "example.com/hook"),
        ("GLOWPLUG_WEBHOOK_HOSTS", "a*.example.com"),
        ("GLOWPLUG_WEBHOOK_HOSTS", "example.com:65536"),
        ("GLOWPLUG_ASYNC_RETRY_SECONDS", "21601"),
        ("GLOWPLUG_LIMIT_LOG_TAIL_BYTES", "0"),
        ("GLOWPLUG_LIMIT_LEDGER_RECORDS", "-1"),
    ],
)
def test_a_value_or_name_that_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(StateError, match=name):
        NodeConfig.from_env({"HOME": "/h", name: value})


def test_a_range_is_told_with_the_value() -> None:
    with pytest.raises(StateError, match=r"^GLOWPLUG_CORES: 0 is not 1 or more$"):
        NodeConfig.from_env({"HOME": "/h", "GLOWPLUG_CORES": "0"})
    with pytest.raises(StateError, match=r"^GLOWPLUG_PUBLIC_PORT: -1 is not between 0 and 65535$"):
        NodeConfig(state=Path("/s"), cache=Path("/c"), public_port=-1)


def test_every_limit_is_used_by_something() -> None:
    root = Path(__file__).resolve().parents[2] / "runtime"
    code = "".join(path.read_text() for path in root.rglob("*.py") if path.name != "config.py")
    assert [] == [name for name in Limits.__dataclass_fields__ if f"limits.{name}" not in code]


def test_limits_are_settings() -> None:
    config = NodeConfig.from_env({"HOME": "/h", "GLOWPLUG_LIMIT_SYNC_REQUEST_BYTES": "1000"})
    assert 1000 == config.limits.sync_request_bytes
    assert 6 * 1024 * 1024 + 100 == config.limits.sync_response_bytes
