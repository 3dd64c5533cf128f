"""SAM CLI beside what the tests are installed with.

It pins libraries that this project has newer, so it cannot be a dependency. Its package alone, and the one library that
nothing else here brings, are installed into a directory of their own; the rest is what the tests run on.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("aws-sam-cli==1.170.0", "ruamel-yaml==0.19.1")


def install(directory: Path) -> Path:
    """Return where its packages are, below ``directory``. Skips the test, saying why, where they cannot be had."""
    site = directory / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(site)]
    got = subprocess.run([*command, *PACKAGES], capture_output=True, text=True, timeout=120, check=False)
    if got.returncode != 0:
        pytest.skip(f"{', '.join(PACKAGES)}: cannot be installed here: {got.stderr.strip().splitlines()[-1]}")
    return site


def program(directory: Path) -> Path:
    """Return a directory for ``PATH`` with the command ``sam``, as one finds it on a machine with a region set."""
    site, script = install(directory), directory / "bin" / "sam"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH={shlex.quote(str(site))} SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1\n"
        f'exec {shlex.quote(sys.executable)} -W ignore -m samcli "$@"\n'
    )
    script.chmod(0o755)
    return script.parent
