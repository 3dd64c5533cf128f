"""The errors of deploying, as one tree.

DeployError
├── TemplateError     the template, or a file it names, cannot be used: file, line, what is wrong
├── ArchiveError      a CodeUri cannot be packed
│   └── RequirementsError   what it requires cannot be installed
├── StrictRefusal     --strict, and the template says what has no effect here
├── JobError          a batch job cannot be run, or was stopped
├── ExportError       a snapshot cannot be signed, or its file cannot be written or read
└── NodeUnreachable   no node answers, or it ended before it did
"""

from __future__ import annotations


class DeployError(Exception):
    """Base of everything that a deploy refuses before it asks the node."""


class TemplateError(DeployError):
    """The template is wrong at ``file``:``line`` (counted from 1; 0 where no line can be named).

    ``column`` is only given for text that is not YAML at all.
    """

    def __init__(self, file: str, line: int, problem: str, *, column: int = 0) -> None:
        place = ":".join([file, *(str(number) for number in (line, column) if number)])
        super().__init__(f"{place}: {problem}")
        self.file = file
        self.line = line
        self.column = column
        self.problem = problem


class StrictRefusal(DeployError):
    """What would only be noted is refused, as ``--strict`` asks for; the message lists it."""


class JobError(DeployError):
    """A batch job cannot be run, or was stopped before it was done."""


class ArchiveError(DeployError):
    """What a CodeUri names cannot be packed: it is missing, unreadable, or reaches outside itself."""


class RequirementsError(ArchiveError):
    """What a requirements.txt asks for cannot be installed; the message ends in pip's last lines."""


class ExportError(DeployError):
    """A snapshot file cannot be made or read here: no signing key, a disk that is full, or the node sent half of it."""


class NodeUnreachable(DeployError):
    """No node answers at an endpoint, what answers is no node, or it ended in the middle of an answer."""
