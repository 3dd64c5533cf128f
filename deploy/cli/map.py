"""``glowplug map``: a function over every line of files, as a batch job that can be stopped and gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from glowplug.runtime.config import default_state
from glowplug.runtime.errors import FunctionNotFound

from ..client import NodeClient
from ..errors import JobError
from ..exchange import Progress
from ..jobfile import JobFile
from ..jobinputs import Input, inputs_of
from ..mapping import Order, run
from .options import connect, of_a_node
from .output import show_json
from .progress import display


@click.command("map")
@click.argument("function")
@click.option("--input", "-i", "patterns", multiple=True, required=True, metavar="FILE|PATTERN|s3://…",
              help="Files with one JSON value a line; may be given again.")  # fmt: skip
@click.option("--output", "-o", required=True, metavar="FILE|s3://…", help="Gets one line for each line of the inputs.")
@click.option("--concurrency", "-c", default=4, show_default=True, type=click.IntRange(1, 1000),
              help="Lines that are run at a time, at most.")  # fmt: skip
@click.option("--retries", default=0, show_default=True, type=click.IntRange(0, 185),
              help="How often a line is run again whose function failed.")  # fmt: skip
@click.option("--max-errors", type=click.IntRange(0), help="Stop after more failed lines than this.")
@click.option("--restart", is_flag=True, help="Forget what was done before, and begin anew.")
@click.option("--patience", default=60.0, show_default=True, type=click.FloatRange(0),
              help="Seconds that a node may not answer before the job is left for later.")  # fmt: skip
@of_a_node
def map_(
    function: str,
    patterns: tuple[str, ...],
    output: str,
    concurrency: int,
    retries: int,
    max_errors: int | None,
    restart: bool,
    patience: float,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Run FUNCTION (or FUNCTION:ALIAS) over every line of the inputs, and write a line for each.

    The lines are {"index": N, "output": …} or {"index": N, "error": …}, in the order of the inputs. The job gives way
    to everything else that the function has to do. Stop it with Ctrl-C; the same command goes on with it, and so it
    does after a kill: until the output is whole there are OUTPUT.job and OUTPUT.part beside it.
    """
    inputs = inputs_of(patterns)
    order = Order(function, concurrency, retries, max_errors, patience)

    def find() -> NodeClient:
        return connect(endpoint, state)

    with JobFile(output, state or default_state(os.environ)) as job, display(quiet=as_json) as show:
        find().health()
        if job.open(function, inputs, restart=restart):
            _carry_out(order, job, inputs, find, show)
        else:
            click.echo(f"{output} is complete", err=True)
    if as_json:
        show_json({"output": output, "lines": job.done, "errors": job.errors})
    else:
        click.echo(f"{job.done} lines, {job.errors} failed: {output}")


def _carry_out(
    order: Order, job: JobFile, inputs: Sequence[Input], find: Callable[[], NodeClient], show: Progress
) -> None:
    """Run what is left of a job and finish it. Raises ``JobError`` where it stops before that."""
    if job.continued:
        click.echo(f"going on after {job.done} lines", err=True)
    total = sum(one.size for one in inputs)

    def progress(done_bytes: int, lines: int, errors: int) -> None:
        about = f"{lines} lines, {errors} failed:" if errors else f"{lines} lines:"
        event = {"step": "map", "function": order.function, "file": about}
        show({**event, "done_bytes": min(done_bytes, total), "total_bytes": total})

    try:
        whole = run(order, job, inputs, find, progress)
    except KeyboardInterrupt:
        raise JobError(f"stopped after {job.done} lines; the same command goes on with them") from None
    except OSError as error:  # a full disk, most likely
        problem = f"{error.filename or job.output}: {error.strerror}"
        raise JobError(f"stopped after {job.done} lines: {problem}; the same command goes on with them") from error
    except FunctionNotFound:
        job.discard()
        raise
    except Exception as error:
        error.add_note(f"{job.done} lines are done; the same command goes on with the rest")
        raise
    if not whole:
        problem = f"{job.errors} lines failed, more than {order.max_errors}; the same command with more goes on"
        raise JobError(f"stopped after {job.done} lines: {problem}")
    job.finish()
