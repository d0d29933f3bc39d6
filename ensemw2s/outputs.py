"""Checks of output paths before the work: writable, replaceable, and free of symbolic links."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path, PurePosixPath

from ensemw2s.errors import InputError
from ensemw2s.files import remove_abandoned

_MEANT = "Choose another name."


def check_output_file(path: Path, *, inputs: Iterable[Path] = (), ours: Callable[[Path], bool]) -> None:
    """Find out whether results can be written to a file; nothing is left behind.

    Args:
        path: the file to write.
        inputs: files and folders that are read; the output is none of them, under whatever name, and lies in none.
        ours: whether a file that is there holds results of this kind, which may be replaced. An empty one may.

    Raises:
        InputError: it is an input; something else is there; or its folder is missing or cannot be written to.
    """
    status = _status(path)
    _refuse_inputs(path, status, inputs)
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is a folder; results go into a file.", hint="Add the file's name.")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file.", hint=_MEANT)
        if not os.access(path, os.W_OK):
            raise InputError(f"{path} is write-protected.", hint=_MEANT)
        if status.st_size and not ours(path):
            raise InputError(
                f"{path} exists, and does not hold results of this command.", hint=f"{_MEANT} Nothing was overwritten."
            )
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.", hint="Make it first.")
    _try_writing(path, path.parent)


def check_output_folder(path: Path, *, inputs: Iterable[Path] = (), ours: Callable[[Path], bool], what: str) -> bool:
    """The same for a folder, which contains none of the inputs either; those above it are made later.

    ``ours`` says whether a folder that is there, and not empty, may be written over; ``what`` names such folders in
    errors.

    Returns:
        Whether there is something to write over.

    Raises:
        InputError: as in :func:`check_output_file`.
    """
    status = _status(path)
    inputs = list(inputs)
    _refuse_inputs(path, status, inputs)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a file.", hint="Choose a folder.")
    for given in inputs:
        if status is not None and given.exists() and given.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{path} holds {given}, which is read.", hint="Choose another folder.")
    place = path
    while not _exists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{path} cannot be made: {place} is not a folder.", hint=_MEANT)
    try:
        if place == path:
            remove_abandoned(path)  # by the same command, killed before
        held = place == path and any(path.iterdir())
    except OSError as error:
        raise _unwritable(path, error) from error
    if held and not ours(path):
        raise InputError(f"{path} is not empty, and not {what}.", hint="Choose another folder.")
    _try_writing(path, place)
    return held


def beside(output: Path, suffix: str) -> Path:
    """The folder of unfinished work beside an output; where its name is too long, it is cut and gets a hash."""
    name = f"{output.name}.{suffix}"
    if len(os.fsencode(name)) > 255:
        digest = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:16]
        name = f"{os.fsencode(output.name)[:200].decode(errors='ignore')}.{digest}.{suffix}"
    return output.with_name(name)


def check_work_folder(folder: Path, ours: re.Pattern[str]) -> None:
    """Whether a folder of unfinished work, which will be removed, holds nothing but names that ``ours`` matches.

    Raises:
        InputError: it is a link or a file, or holds something of another name.
    """
    refuse_links(folder.parent, folder.name)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, where unfinished work would be kept.", hint="Move it away.")
    strange = sorted(path.name for path in folder.iterdir() if not ours.fullmatch(path.name))
    if strange:
        raise InputError(
            f"{folder}, where unfinished work would be kept, holds something else: {strange[0]}.",
            hint="Choose another output, or move that folder away.",
        )


def refuse_links(root: Path, *names: str, in_place: Collection[str] = ()) -> None:
    """Refuse to write below ``root`` where a symbolic link would lead the writing somewhere else.

    Nothing is opened or changed. ``root`` itself may be a link: which folder is meant is the user's choice.

    Args:
        root: the folder that will be written into; it need not exist.
        names: what will be written, relative to ``root``, folders with all that they hold; everything by default.
        in_place: files in ``root`` that are appended to or rewritten where they are, so that they must be regular files
            without a second name.

    Raises:
        InputError: there is a symbolic link, or a pipe, socket or device; names it.
    """
    for name in names or (".",):
        place, missing = root, False
        for part in PurePosixPath(name).parts:
            if place != root and place.is_file():
                refuse_files(root, name)
            place = place / part
            missing = not _exists_without_link(place)
            if missing:
                break
        if not missing and place.is_dir():
            _refuse_links_below(place)
    for name in in_place:
        place = root / name
        if _exists_without_link(place) and (not place.is_file() or place.lstat().st_nlink > 1):
            what = "has a second name (hard link)" if place.is_file() else "is not a regular file"
            raise _refused(place, f"{what}, and would be written in place")


def refuse_files(root: Path, *names: str) -> None:
    """Refuse a file at or above the place of a folder; ``names`` are those of folders, relative to ``root``.

    Raises:
        InputError: there is one; names it.
    """
    for name in names:
        for part in (PurePosixPath(name), *PurePosixPath(name).parents):
            if (root / part).is_file():
                raise InputError(
                    f"{root / part} is a file, where a folder is kept.",
                    hint=f"No run makes it. Remove it or move it away, then repeat the command: rm {root / part}",
                    title="Not written",
                )


def _exists_without_link(place: Path) -> bool:
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{place} cannot be looked at: {error.strerror}.") from error
    _refuse_mode(place, mode)
    return True


def _refuse_links_below(folder: Path) -> None:
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(here / entry.name)
                    elif not entry.is_file(follow_symlinks=False):
                        _exists_without_link(here / entry.name)
        except FileNotFoundError:  # temporary files come and go
            continue
        except OSError as error:
            raise InputError(f"{here} cannot be read: {error.strerror}.") from error


def _refuse_mode(place: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise _refused(place, "is a symbolic link, and nothing is written through one")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _refused(place, "is neither a file nor a folder")


def _refused(place: Path, why: str) -> InputError:
    return InputError(
        f"{place} {why}.",
        hint="Nothing was changed. Remove it, or put a copy of what it stands for in its place.",
        title="Not written",
    )


def _status(path: Path) -> os.stat_result | None:
    """Status of a path; None where nothing is. A link is refused: what it leads to was not named."""
    try:
        status = path.lstat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise _unwritable(path, error) from error
    if stat.S_ISLNK(status.st_mode):
        raise InputError(f"{path} is a symbolic link.", hint="Name the place itself that it leads to, or another one.")
    return status


def _refuse_inputs(path: Path, status: os.stat_result | None, inputs: Iterable[Path]) -> None:
    place = Path(os.path.realpath(path))
    for given in inputs:
        try:
            same = status is not None and os.path.samestat(status, given.stat())  # also by a link or in other case
        except OSError:
            continue
        if same:
            raise InputError(f"{path} is {given}, which is read.", hint=f"{_MEANT} Nothing was overwritten.")
        if given.is_dir() and place.is_relative_to(given.resolve()):
            raise InputError(f"{path} lies in {given}, which is read.", hint="Choose a place outside.")


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError as error:
        raise _unwritable(place, error) from error


def _try_writing(path: Path, folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()  # unnamed where that is possible, so that a kill leaves nothing
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"{str(path)[:80]}… is too long for a name.", hint="Most file systems take 255 bytes.")
    return InputError(f"{path} cannot be written: {error.strerror or error}.", hint=_MEANT)
