"""What a zip of function code may hold. Everything here is decided from the archive's directory, before unpacking.

Refused, each with the entry's name: absolute names and ``..`` (they would be written elsewhere), names that are twice
there or are both a file and a directory (which one runs would depend on the unpacker), symbolic links, devices and
other special files (they point out of the directory, or block), encrypted entries, compression other than stored and
deflate, names that no file system takes, directories nested beyond reason, more of them than inodes are worth, entries
that are said to begin outside the archive. Sizes are limited twice: as declared, and as they really are while copying,
because the declaration is the uploader's. How large the zip itself may be depends on how it comes (``packages.py``).
"""

from __future__ import annotations

import errno
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from .config import Limits
from .errors import InvalidParameter

MAX_ENTRIES = 65_535
"""Entries in one archive, and files and directories that it makes: what a zip without the 64-bit extension can count.
Each costs an inode and an fsync, also the directories that only names imply."""

_MAX_NAME_BYTES = 255  # NAME_MAX of Linux: one component
_MAX_PATH_BYTES = 2048  # half of PATH_MAX: the other half is for the state directory's own path
_MAX_DEPTH = 100  # directories: what walks a tree, here and in the standard library, calls itself for each
_MAX_DIRECTORY_BYTES = 32 * 1024 * 1024  # half a kilobyte for each entry: its name, and what extensions say of it
_RECORD = b"PK\x01\x02"
_COPY_BYTES = 1024 * 1024
_DAMAGED = "Could not unzip uploaded file. Please check your file, then try to upload again."
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MISREAD = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, NotImplementedError, RuntimeError, OverflowError),
)
"""What reading an entry raises when its bytes are not those of an entry."""
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory without a closing /",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One entry that may be unpacked. ``parts`` are the components of its path, safe to join."""

    entry: zipfile.ZipInfo
    parts: tuple[str, ...]
    is_directory: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """An archive that passed; ``members`` in its own order."""

    file: zipfile.ZipFile
    members: tuple[Member, ...]


@contextmanager
def inspect(archive: BinaryIO, limits: Limits) -> Iterator[Contents]:
    """Open an archive, a file on disk or in memory, whose every entry may be unpacked.

    Raises ``InvalidParameter``: Lambda's sentence where it has one, else naming the entry. Raises ``OSError`` when the
    archive cannot be read.
    """
    size = archive.seek(0, io.SEEK_END)
    guarded: Any = _Guarded(archive)
    try:
        file = zipfile.ZipFile(guarded)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError) as error:
        raise InvalidParameter(_DAMAGED) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # that one says that the archive's own figures lead before its beginning
            raise
        raise InvalidParameter(_DAMAGED) from error
    guarded.checking = False
    with file:
        entries = file.infolist()
        if sum(entry.file_size for entry in entries) > limits.code_unzipped_bytes:
            raise InvalidParameter(f"Unzipped size must be smaller than {limits.code_unzipped_bytes} bytes")
        members = tuple(_member(entry, size) for entry in entries)
        if all(member.is_directory for member in members):
            raise InvalidParameter("Uploaded file must be a non-empty zip")
        _refuse_clashes(members)
        yield Contents(file, members)


class _Guarded:
    """A file that gives zipfile no directory of too many entries, of each of which it would make an object first: a
    hundred bytes to send, half a kilobyte to hold."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.checking = True

    def read(self, size: int = -1) -> bytes:
        """Read as a file does. Raises ``InvalidParameter`` for such a directory."""
        if self.checking and size > _MAX_DIRECTORY_BYTES:
            raise InvalidParameter(
                f"the uploaded code's directory has {size} bytes; {_MAX_DIRECTORY_BYTES} are allowed"
            )
        data = self._file.read(size)
        if self.checking and data.count(_RECORD) > MAX_ENTRIES:  # each entry begins with it
            raise InvalidParameter(f"the uploaded code has more entries than the {MAX_ENTRIES} that are allowed")
        return data


def copy_member(archive: zipfile.ZipFile, member: Member, target: BinaryIO) -> None:
    """Unpack one file into ``target``. Raises ``InvalidParameter`` when its bytes are not what the archive declares."""
    name, declared = member.entry.filename, member.entry.file_size
    copied = 0
    try:
        with archive.open(member.entry) as source:
            while chunk := source.read(_COPY_BYTES):
                copied += len(chunk)
                if copied > declared:
                    raise InvalidParameter(f"{name}: unpacks to more than the {declared} bytes it declares")
                target.write(chunk)
    except _MISREAD as error:
        raise InvalidParameter(f"{name}: damaged in the uploaded code: {error}") from error
    if copied != declared:
        raise InvalidParameter(f"{name}: unpacks to {copied} bytes, not to the {declared} it declares")


def _member(entry: zipfile.ZipInfo, archive_bytes: int) -> Member:
    name = entry.orig_filename  # as it is in the archive: ZipInfo cuts ``filename`` at a NUL
    if "\0" in name or "\\" in name or any(ord(character) < 32 for character in name):
        raise InvalidParameter(f"{name!r}: names with backslashes or control characters are not allowed in code")
    if name.startswith("/"):
        raise InvalidParameter(f"{name}: absolute names are not allowed in code")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise InvalidParameter(f"{name}: names with .. are not allowed in code")
    if not parts and not name.endswith("/"):
        raise InvalidParameter(f"{name!r}: an entry of the uploaded code has no name")
    if len(name.encode()) > _MAX_PATH_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise InvalidParameter(f"{name[:80]}…: the name is too long")
    if len(parts) > _MAX_DEPTH:
        raise InvalidParameter(f"{name[:80]}…: more than {_MAX_DEPTH} directories deep")
    if not 0 <= entry.header_offset < archive_bytes:  # the 64-bit extension lets it say anything
        raise InvalidParameter(f"{name}: damaged in the uploaded code: it begins outside of it")
    if entry.flag_bits & 0x1:
        raise InvalidParameter(f"{name}: encrypted entries are not allowed in code")
    if entry.compress_type not in _COMPRESSIONS:
        raise InvalidParameter(f"{name}: compression method {entry.compress_type} is not supported; use deflate")
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    is_directory = entry.is_dir()
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > is_directory:
        raise InvalidParameter(f"{name}: {_KINDS.get(kind, 'a file of unknown type')} is not allowed in code")
    return Member(entry, parts, is_directory, executable=bool(mode & 0o111))


def _refuse_clashes(members: tuple[Member, ...]) -> None:
    files: set[tuple[str, ...]] = set()
    directories: set[tuple[str, ...]] = {()}
    for member in members:
        if member.parts in files or (not member.is_directory and member.parts in directories):
            raise _twice(member)
        if not member.is_directory:
            files.add(member.parts)
        above = member.parts if member.is_directory else member.parts[:-1]
        while above not in directories:
            if above in files:
                raise _twice(member)
            directories.add(above)
            above = above[:-1]
        if len(files) + len(directories) - 1 > MAX_ENTRIES:  # () is there anyway
            raise InvalidParameter(f"the uploaded code makes more than {MAX_ENTRIES} files and directories")


def _twice(member: Member) -> InvalidParameter:
    return InvalidParameter(f"{member.entry.filename}: is in the uploaded code twice")
