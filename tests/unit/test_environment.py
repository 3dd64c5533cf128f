"""The environment that a function sees (spec 6.4)."""

from __future__ import annotations

from pathlib import Path

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.routing.environment import (
    Credentials,
    Roots,
    Site,
    credentials,
    installed_lang,
    load_environment,
    log_stream,
    start_environment,
)
from glowplug.runtime.testing import a_spec

SITE = Site(endpoint="http://127.0.0.1:9000", region="eu-west-1", secret=b"s")
ROOTS = Roots.laid(a_spec())


def test_the_names_that_lambda_sets_are_there() -> None:
    """Reserved names and what a real environment has besides."""
    names = load_environment(SITE, a_spec(memory_mb=512), ROOTS)
    expected = {
        "_HANDLER": "f.handler", "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1", "TZ": ":UTC",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11", "AWS_LAMBDA_FUNCTION_NAME": "f", "LANG": "C.UTF-8",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST", "SHLVL": "0",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
        "LAMBDA_TASK_ROOT": "/var/task", "PWD": "/var/task", "HOME": "/tmp", "TMPDIR": "/tmp",
        "LAMBDA_RUNTIME_DIR": "/var/runtime", "PYTHONPATH": "/var/runtime", "AWS_LAMBDA_LOG_FORMAT": "Text",
        "LD_LIBRARY_PATH": "/var/task:/var/task/lib:/opt/lib", "AWS_LAMBDA_LOG_LEVEL": None,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:9000",
        "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9000", "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000", "_AWS_XRAY_DAEMON_PORT": "2000",
    }  # fmt: skip
    assert expected == {name: names.get(name) for name in expected}


def test_snap_start_changes_the_initialization_type_and_forking_does_not() -> None:
    """Being parked is ours, not Lambda's."""
    names = load_environment(SITE, a_spec(snap_start=True), ROOTS)
    assert "snap-start" == names["AWS_LAMBDA_INITIALIZATION_TYPE"]


def test_the_functions_own_variables_are_added() -> None:
    """They come last: a function may point its SDK elsewhere."""
    spec = a_spec(environment={"MINE": "1", "AWS_ENDPOINT_URL": "http://elsewhere"})
    names = load_environment(SITE, spec, ROOTS)
    assert ("1", "http://elsewhere") == (names["MINE"], names["AWS_ENDPOINT_URL"])


def test_credentials_are_synthetic_stable_and_the_functions_own() -> None:
    """Nothing of the operator's; the node can tell who calls."""
    one, again, other = credentials(SITE, "f"), credentials(SITE, "f"), credentials(SITE, "g")
    assert (one, True) == (again, one != other)
    assert ("ASIAGLOWPLUG", 20, 40) == (one.access_key_id[:12], len(one.access_key_id), len(one.secret_access_key))
    assert one != credentials(Site(endpoint="", secret=b"t"), "f")


def test_secrets_are_not_in_reprs() -> None:
    """Neither the node's nor the functions'."""
    given = credentials(SITE, "f")
    assert isinstance(given, Credentials)
    assert given.secret_access_key not in repr(given)
    assert "secret" not in repr(SITE)


def test_what_an_instance_has_of_its_own() -> None:
    """The log stream, by UTC day, version and instance."""
    stream = log_stream(a_spec(), "0" * 32, at_s=1_767_225_600.0)
    assert f"2026/01/01/[$LATEST]{'0' * 32}" == stream
    assert {"AWS_LAMBDA_LOG_STREAM_NAME": stream} == start_environment(log_stream=stream)


def test_users_are_the_functions_own_and_only_where_the_node_may_change_users() -> None:
    """The registry's slot, counted from the configured uid; -1 elsewhere."""
    config = NodeConfig(state=Path("/s"), cache=Path("/c"), uid_base=200_000)
    site = Site.of(config, "http://127.0.0.1:1", slot_of={"f": 0, "g": 7}.__getitem__)
    assert (200_000, 200_007) == (site.user_of("f"), site.user_of("g"))
    assert -1 == Site.of(config, "http://127.0.0.1:1", slot_of=None).user_of("f")


def test_the_locale_is_one_that_exists() -> None:
    """Lambda's where the machine has it."""
    assert installed_lang() in ("en_US.UTF-8", "C.UTF-8")
