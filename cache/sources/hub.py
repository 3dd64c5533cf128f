"""Models on the Hugging Face Hub: ``hf://org/name[@revision][/path]``, also ``hf://datasets/…`` and ``hf://spaces/…``.

``HfFileSystem`` understands the URL and lists the files; ``HF_ENDPOINT``, ``HF_TOKEN`` and a stored login are its
affair. The revision is resolved to a commit once, and everything is listed and read at that commit, so nothing can
change under way. The bytes are read with ``WebFile`` and not with ``HfFileSystem``'s own files: those ask for one block
after the other and repeat failed requests where nobody sees it. The token goes to the Hub, not to where it redirects.

Needs the extra ``hf``. huggingface_hub is imported when the first ``hf://`` URL is opened: it takes half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glowplug.cache.errors import SourceError, SourceForbidden, SourceInvalid, SourceNotFound, SourceUnreachable

from .agent import Agent, status_error
from .listing import ListedFile, checked_name, select
from .shards import one_file
from .stream import source_errors
from .web import CONNECTIONS, WebFile


def open_hub(url: str) -> tuple[ListedFile, ...]:
    """List a repository, or a directory or file in it. Raises ``SourceError`` subclasses."""
    try:
        import huggingface_hub  # late: see the module's docstring
    except ImportError as error:
        raise SourceInvalid(f'{url}: needs huggingface_hub: pip install "glowplug[hf]" ({error})') from error
    with source_errors(lambda error: _mapped(url, error)):
        # no shared instance: it would remember what a branch was when it was asked last
        filesystem: Any = huggingface_hub.HfFileSystem(skip_instance_cache=True)
        found: Any = filesystem.resolve_path(url)
        if not hasattr(found, "repo_id"):
            raise SourceInvalid(f"{url}: a bucket has no commits to pin; a repository has")
        repository = _Repository(url, filesystem, found.repo_type, found.repo_id, found.revision)
        return repository.below(found.path_in_repo.rstrip("/"))


class _Repository:
    """One repository at one commit, whose files are read through one agent."""

    def __init__(self, url: str, filesystem: Any, kind: str, name: str, revision: str) -> None:
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        commit = HfApi().repo_info(name, revision=revision, repo_type=kind).sha
        if not commit:
            raise SourceUnreachable(f"{url}: the Hub names no commit of {revision!r}")
        self._url = url
        self._filesystem = filesystem
        self._commit = commit
        self._root = f"{'' if kind == 'model' else kind + 's/'}{name}@{commit}/"
        self._locate: Callable[[str], str] = lambda path: hf_hub_url(name, path, repo_type=kind, revision=commit)
        self._agent = Agent(self._locate("x"), connections=CONNECTIONS, headers=build_hf_headers())

    def below(self, path: str) -> tuple[ListedFile, ...]:
        """List the file at ``path``, or all files below it."""
        top = self._root + path
        entries = self._filesystem.find(top.rstrip("/"), detail=True)
        if path and list(entries) == [top]:
            directory, _, name = path.rpartition("/")
            prefix = f"{directory}/" if directory else ""
            file = self._file(entries[top], path, name)
            return one_file(file, lambda shard: self._beside(prefix + shard, shard), self._url)
        prefix = f"{top}/" if path else top
        listed = []
        for full, details in entries.items():
            if not full.startswith(prefix):
                raise SourceInvalid(f"{self._url}: the listing names {full!r}, which is not below it")
            listed.append(self._file(details, full[len(self._root) :], full[len(prefix) :]))
        return select(listed, self._url)

    def _beside(self, path: str, name: str) -> ListedFile:
        return self._file(self._filesystem.info(self._root + path), path, name)

    def _file(self, details: dict[str, Any], path: str, name: str) -> ListedFile:
        size, large = int(details["size"]), details.get("lfs")
        # what git itself holds is small and comes from servers that do not all do ranges
        ranged = large is not None
        label = f"{self._url}: {checked_name(name, self._url)}"
        reader = WebFile(self._agent, self._locate(path), label, size=size, ranged=ranged)
        return ListedFile(
            name=name,
            size=size,
            version=f"{self._commit} {details['blob_id']}",
            open=reader.open,
            ranged=ranged,
            connections=CONNECTIONS if ranged else 1,
            sha256=str(large["sha256"]) if large is not None else "",
        )


def _mapped(url: str, error: Exception) -> SourceError:
    """Return the ``SourceError`` for what huggingface_hub raised: its answers have a status, the rest has no base."""
    if isinstance(error, FileNotFoundError):
        cause: Any = getattr(error.__cause__, "response", None)
        if cause is not None and cause.status_code == 403:  # gated; HfFileSystem calls that not there
            return SourceForbidden(f"{url}: access refused: {_first_line(error.__cause__)}")
        return SourceNotFound(f"{url}: nothing there: {error}")
    if isinstance(error, PermissionError):
        return SourceForbidden(f"{url}: access refused: {error}")
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(status, int):
        return status_error(f"{url}: {_first_line(error)}", status, response.headers)
    if isinstance(error, ValueError | NotImplementedError):
        return SourceInvalid(f"{url}: {error}")
    return SourceUnreachable(f"{url}: {type(error).__name__}: {error}")


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), "")
