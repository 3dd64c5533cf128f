"""What the path itself costs: ``echo`` over a keep-alive function URL, with wrk where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from . import load
from .figures import Figure, at_least, at_most
from .served import Node

SECONDS = 8
PAYLOAD = '{"hello":"world"}'


def figures(node: Node) -> list[Figure]:
    """Measure latency at 1 connection and throughput at 16."""
    section = "echo over its function URL, keep-alive"
    url = f"http://127.0.0.1:{node.port}/_url/echo/"
    run = _wrk if shutil.which("wrk") else load.run
    run(url, PAYLOAD, 16, 3)  # instances started, pages touched
    p50_one, _ = run(url, PAYLOAD, 1, SECONDS)
    p50_many, per_second = run(url, PAYLOAD, 16, SECONDS)
    return [
        at_most(section, "p50 at 1 connection", p50_one, "ms", 1.0),
        Figure(section, "p50 at 16 connections", p50_many, "ms"),
        at_least(section, "requests per second at 16 connections", per_second, "/s", 6000),
    ]


def idle(node: Node, seconds: float = 20.0) -> list[Figure]:
    """Measure the node's CPU with everything scaled to zero, and count its workers."""
    for name in ("embed", "echo"):
        node.admin("POST", f"functions/{name}/cool", {"to": "parked"})
    time.sleep(1.0)
    before = _cpu_s(node.process.pid)
    time.sleep(seconds)
    share = (_cpu_s(node.process.pid) - before) / seconds * 100
    rows = node.admin("GET", "functions")["functions"]
    instances = sum(row["instances"] for row in rows)
    return [
        at_most("idle, scaled to zero", "node CPU", share, "%", 1.0),
        at_most("idle, scaled to zero", "worker processes", instances, "", 0),
    ]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # utime, stime in USER_HZ


def _wrk(url: str, payload: str, connections: int, seconds: int) -> tuple[float, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method='POST'\nwrk.body='{payload}'\nwrk.headers['Content-Type']='application/json'\n")
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name, url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise RuntimeError(text)
    match = re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not match or not rate:
        raise RuntimeError(f"wrk printed something else:\n{text}")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]], float(rate[1])
