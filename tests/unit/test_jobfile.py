"""What is kept of a batch job: how far it is, what it is, and how it ends; and the inputs that it reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from glowplug.deploy.cli import main
from glowplug.deploy.errors import JobError
from glowplug.deploy.jobfile import JobFile
from glowplug.deploy.jobinputs import Input, inputs_of
from glowplug.deploy.mapping import PIECE_LINES, _pieces

INPUTS = [Input("a", 3, "1")]


@contextmanager
def opened(
    path: Path, *, function: str = "work", inputs: list[Input] = INPUTS, restart: bool = False
) -> Iterator[JobFile]:
    with JobFile(str(path), path.parent) as job:
        assert job.open(function, inputs, restart=restart)
        yield job


def killed_at_its_end(output: Path, inputs: list[Input]) -> None:
    """Run a job of two lines, one of which fails, up to the moment before its file would go."""
    with opened(output, inputs=inputs) as job:
        job.write({"index": 0, "output": 1})
        job.write({"index": 1, "error": {"errorType": "x"}})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Path, "unlink", lambda path: None)
            job.finish()


def test_a_job_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with opened(output) as job:
        job.write({"index": 0, "output": "ä\ud800"})
        job.write({"index": 1, "error": {"errorType": "x"}})
        first = job.id
    with (tmp_path / "out.part").open("ab") as part:
        part.write(b'{"index": 2, "out')
    with opened(output) as job:
        assert (first, 2, 1, True) == (job.id, job.done, job.errors, job.continued)
        job.write({"index": 2, "output": None})
        job.finish()
    assert [0, 1, 2] == [json.loads(line)["index"] for line in output.read_bytes().splitlines()]
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


def test_an_output_that_is_there_is_not_overwritten_unless_one_begins_anew(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("precious")
    with pytest.raises(JobError, match="is there already"), opened(output):
        pass
    assert ["out"] == [path.name for path in tmp_path.iterdir()]
    with opened(output, restart=True) as job:
        assert "precious" == output.read_text()  # until the new one is whole
        job.finish()
    assert "" == output.read_text()


def test_an_output_that_is_an_input_is_refused_also_when_one_begins_anew(tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text("1\n")
    with (
        pytest.raises(JobError, match="is an input too"),
        opened(lines, inputs=inputs_of((str(lines),)), restart=True),
    ):
        pass
    assert (["in.jsonl"], "1\n") == ([path.name for path in tmp_path.iterdir()], lines.read_text())


@pytest.mark.parametrize("other", [{"function": "else"}, {"inputs": [Input("a", 3, "2")]}])
def test_another_job_or_changed_inputs_are_refused(tmp_path: Path, other: dict[str, object]) -> None:
    output = tmp_path / "out"
    with opened(output) as job:
        first = job.id
    with pytest.raises(JobError, match="begin anew with --restart"), opened(output, **other):  # type: ignore[arg-type]
        pass
    with opened(output, restart=True, **other) as job:  # type: ignore[arg-type]
        assert (0, False) == (job.done, job.continued)
        assert first != job.id


def test_a_job_that_was_killed_when_it_was_finished_is_finished(tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed_at_its_end(output, INPUTS)
    with JobFile(str(output), tmp_path) as job:
        assert not job.open("work", INPUTS, restart=False)
    assert (2, 1) == (job.done, job.errors)
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


def test_a_job_whose_output_was_not_put_in_its_place_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed_at_its_end(output, INPUTS)
    output.rename(tmp_path / "out.part")
    with opened(output) as job:
        assert (2, 1, True) == (job.done, job.errors, job.continued)
        job.finish()
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


def test_a_command_on_a_complete_job_answers_as_the_one_that_completed_it(
    tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, output = tmp_path / "in.jsonl", tmp_path / "out"
    lines.write_text("1\n2\n")
    killed_at_its_end(output, inputs_of((str(lines),)))
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", scripted.client.endpoint)
    arguments = ["map", "work", "--input", str(lines), "--output", str(output), "--json"]
    monkeypatch.setattr(sys, "argv", ["glowplug", *arguments])
    done = CliRunner().invoke(main, arguments)
    assert (0, f"{output} is complete\n") == (done.exit_code, done.stderr)
    assert {"output": str(output), "lines": 2, "errors": 1} == json.loads(done.stdout)


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "out"),
        pytest.raises(JobError, match="another `glowplug map`"),
        opened(tmp_path / "out"),
    ):
        pass


def test_inputs_by_name_and_pattern_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text("1\n\n2")
    found = inputs_of((f"{tmp_path}/*.jsonl", f"{tmp_path}/b.jsonl"))
    assert ["a.jsonl", "b.jsonl"] == [Path(one.name).name for one in found]
    assert [b"1", b"", b"2"] == list(found[0].lines())
    (tmp_path / "x.parquet").write_text("")
    for pattern, problem in ((f"{tmp_path}/none", "no such file"), (str(tmp_path), "is a directory"),
                             (f"{tmp_path}/x.parquet", "one JSON value a line"), ("s3://bucket", "looks like s3://")):  # fmt: skip
        with pytest.raises(JobError, match=problem):
            inputs_of((pattern,))


@given(st.lists(st.integers(0, 200), max_size=4), st.integers(0, 400))
def test_pieces_have_every_line_once_and_in_order(sizes: list[int], skipped: int) -> None:
    lines = [[f"{file}-{number}".encode() for number in range(count)] for file, count in enumerate(sizes)]

    class Lines(Input):
        def lines(self):  # type: ignore[no-untyped-def]
            return iter(lines[int(self.name)])

    whole = [line for one in lines for line in one]
    pieces = list(_pieces([Lines(str(number), 0, "") for number in range(len(sizes))], skipped))
    assert whole[skipped:] == [line for piece in pieces for line in piece.lines]
    assert all(0 < len(piece.lines) <= PIECE_LINES for piece in pieces)
    firsts = [piece.first for piece in pieces]
    assert firsts == [skipped + PIECE_LINES * number for number in range(len(pieces))]
