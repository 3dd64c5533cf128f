"""What the supervisor of the MPS daemon decides: a pure table."""

from __future__ import annotations

from pathlib import Path

import pytest

from glowplug.snapshot.cuda.mps import Action, Limits, Phase, Seen, Server, client_environment, step

DEAD = Seen(answers=False)
IDLE = Seen(answers=True)
BUSY = Seen(answers=True, server=Server.ACTIVE, clients=(7, 8))
WAKING = Seen(answers=True, server=Server.INITIALIZING)
FAULTED = Seen(answers=True, server=Server.FAULT, clients=(7, 8))
EMPTY = Seen(answers=True, server=Server.FAULT)


@pytest.mark.parametrize(
    ("phase", "seen", "for_s", "expected"),
    [
        (Phase.STOPPED, DEAD, 0.0, (Phase.STOPPED, Action.NOTHING)),
        (Phase.READY, IDLE, 0.0, (Phase.READY, Action.NOTHING)),
        (Phase.READY, BUSY, 1e6, (Phase.READY, Action.NOTHING)),
        (Phase.READY, DEAD, 0.0, (Phase.RESTARTING, Action.RESTART)),
        (Phase.READY, FAULTED, 1e6, (Phase.DRAINING, Action.END_CLIENTS)),
        (Phase.DRAINING, FAULTED, 14.9, (Phase.DRAINING, Action.END_CLIENTS)),
        (Phase.DRAINING, FAULTED, 15.0, (Phase.RESTARTING, Action.RESTART)),
        (Phase.DRAINING, EMPTY, 15.0, (Phase.RECOVERING, Action.NOTHING)),
        (Phase.RECOVERING, EMPTY, 29.9, (Phase.RECOVERING, Action.NOTHING)),
        (Phase.RECOVERING, EMPTY, 30.0, (Phase.RESTARTING, Action.RESTART)),
        (Phase.RECOVERING, BUSY, 1.0, (Phase.READY, Action.NOTHING)),
        (Phase.RECOVERING, FAULTED, 60.0, (Phase.DRAINING, Action.END_CLIENTS)),
        (Phase.READY, WAKING, 1e6, (Phase.INITIALIZING, Action.NOTHING)),
        (Phase.INITIALIZING, WAKING, 120.0, (Phase.RESTARTING, Action.RESTART)),
        (Phase.RESTARTING, IDLE, 0.0, (Phase.READY, Action.NOTHING)),
        (Phase.RESTARTING, DEAD, 0.0, (Phase.RESTARTING, Action.RESTART)),
    ],
)
def test_the_next_phase(phase: Phase, seen: Seen, for_s: float, expected: tuple[Phase, Action]) -> None:
    assert expected == step(phase, seen, for_s=for_s)


def test_no_phase_but_stopped_is_for_ever() -> None:
    """Whatever is seen, for however long: clients are welcome, are ended, or the daemon is started again."""
    for phase in set(Phase) - {Phase.STOPPED}:
        for seen in (DEAD, IDLE, BUSY, WAKING, FAULTED, EMPTY):
            first, _ = step(phase, seen, for_s=0.0)
            after, action = step(first, seen, for_s=1e6)
            assert after is Phase.READY or action is Action.RESTART, (phase, seen)


def test_a_clients_environment_names_only_the_limits_it_has() -> None:
    pipe, log = Path("/m/pipe"), Path("/m/log")
    places = {"CUDA_MPS_PIPE_DIRECTORY": "/m/pipe", "CUDA_MPS_LOG_DIRECTORY": "/m/log"}
    assert places == client_environment(pipe, log, Limits())
    assert {
        **places,
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=4096M",
    } == client_environment(pipe, log, Limits(thread_percent=25, memory_mib=4096))
