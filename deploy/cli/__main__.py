"""``python -m glowplug.deploy.cli``: the ``glowplug`` command where its script is not on the PATH."""

from . import main

main(prog_name="glowplug")
