#!/usr/bin/python3 -ISB
"""A stand-in for nvidia-cuda-mps-control: its command line, its commands, its files, and the ways it misbehaves.

``-d`` starts a daemon that answers on a socket in CUDA_MPS_PIPE_DIRECTORY; without options commands are read from the
input and carried there. The test says in ``scenario`` (JSON, beside the pipe directory) what the server is like:
``server`` (its pid, 0 for none), ``state``, ``clients`` (pids), ``stuck`` (does not recover), ``hang`` (the daemon
answers no more), ``refuse`` (-d fails). A server in FAULT is ACTIVE again when none of its clients is left, and not
before, as NVIDIA documents it.
"""

import json
import os
import pathlib
import signal
import socket
import sys
from typing import NoReturn

pipe = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
scenario = pipe.parent / "scenario"
pid_file = pipe / "nvidia-cuda-mps-control.pid"
place = f"/proc/self/fd/{os.open(pipe, os.O_PATH)}/control"  # a socket's path may have 107 bytes


def alive(pid: int) -> bool:
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def answer(command: str) -> str:
    world = json.loads(scenario.read_text())
    world["clients"] = [pid for pid in world.get("clients", []) if alive(pid)]
    if world.get("state") == "FAULT" and not world["clients"] and not world.get("stuck"):
        world["state"] = "ACTIVE"
    scenario.write_text(json.dumps(world))
    if world.get("hang"):
        signal.pause()
    name, *given = command.split()
    if name == "get_server_list":
        return f"{world['server']}\n" if world.get("server") else ""
    if given != [str(world.get("server"))]:
        return "Server not found\n"
    if name == "get_server_status":
        return f"{world['state']}\n"
    if name == "get_client_list":
        return "".join(f"{pid}\n" for pid in world["clients"])
    return f"Unknown command: {name}\n"


def serve(listener: socket.socket) -> NoReturn:
    while True:
        connection, _ = listener.accept()
        command = connection.makefile().readline().strip()
        if command == "quit":
            pid_file.unlink()
            os.unlink(place)
            connection.close()
            sys.exit(0)
        connection.sendall(answer(command).encode())
        connection.close()


def daemon() -> NoReturn:
    if json.loads(scenario.read_text()).get("refuse"):
        sys.exit(1)
    if pid_file.exists() and alive(int(pid_file.read_text())):
        print("An instance of this daemon is already running")
        sys.exit(1)
    pathlib.Path(place).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    if os.fork():
        os._exit(0)
    os.setsid()
    pid_file.write_text(str(os.getpid()))
    (pipe.parent / "arguments").write_text(" ".join(sys.argv[1:]))
    serve(listener)


if "-d" in sys.argv:
    daemon()
for line in sys.stdin:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(place)
    except OSError:
        print("Cannot find MPS control daemon process")
        sys.exit(1)
    connection.sendall(line.encode())
    sys.stdout.write(connection.makefile().read())
