"""Folders that appear whole or not at all.

Everything is written into a hidden sibling, down to the disk, and takes its name by one rename; where a folder of that
name is, the two are exchanged in one step, and the old one is removed after that. Whoever opens the name finds the old
folder or the new one, at every moment, whatever happens to the process or the machine.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from .errors import TargetError


_HIDDEN = (".bart_eqx-", ".partial")
_YOUNG = 60  # seconds; time enough to be locked by whoever makes it
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


def check_target(target: Path, *, overwrite: bool, replaceable: Collection[str], source: Path | None = None) -> Path:
    """Find out, before anything is downloaded or written, whether `target` can be made.

    Args:
        target: The folder to make.
        overwrite: Whether it may replace one of the same name.
        replaceable: Names of the only files that may be lost with that one.
        source: A folder that must not be touched.

    Returns:
        The folder, where it really is.

    Raises:
        TargetError: if it exists, or has files of another kind, or is the source, or cannot be written.
    """
    try:
        target = target.expanduser().resolve()
        exists = target.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long; a loop of links; nobody's home; a zero byte
        raise TargetError(f"{str(target)!r:.200} cannot be a folder ({error}): take another with -o.") from None
    if source is not None and exists and (target.samefile(source) or source.resolve().is_relative_to(target)):
        raise TargetError(f"{target} is the source itself, or holds it: take another folder with -o.")
    if exists and not target.is_dir():
        raise TargetError(f"{target} is a file, and a folder is to be written: take another with -o.")
    if exists and not overwrite:
        raise TargetError(f"{target} exists: take another folder with -o, or --overwrite.")
    if exists:
        _check_replaceable(target, target, replaceable)
        if Path.cwd().is_relative_to(target) or os.path.ismount(target):
            raise TargetError(f"{target} is where you are, or a disk of its own: take another folder with -o.")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise TargetError(f"Nothing may be written in {parent}: take a folder elsewhere, or see to its permissions.")
    if len(os.fsencode(target.name)) > 255:
        raise TargetError(f"{target.name[:40]!r}... is longer than a name may be: take another folder with -o.")
    return target


def _check_replaceable(folder: Path, name: Path, replaceable: Collection[str]) -> None:
    try:
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in replaceable)
    except OSError as error:
        raise TargetError(f"{name} cannot be looked into ({error.strerror}): take another folder with -o.") from None
    if others:
        raise TargetError(
            f"{name} holds what no conversion writes, and would be lost: {', '.join(map(repr, others[:5]))}"
            f"{', ...' if len(others) > 5 else ''}. Take another folder with -o, or remove them."
        )


def check_room(folder: Path, wanted: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        TargetError: if `wanted` bytes are more than are free where `folder` is to be.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise TargetError(f"{folder} needs {wanted:,} bytes, and {free:,} are free: make room, or take another disk.")


@contextlib.contextmanager
def atomic_folder(target: Path, *, replaceable: Collection[str] | None = None) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends. If it fails, nothing is left of it.

    Args:
        target: The folder to make.
        replaceable: Names of the only files that may be lost with one of the same name; without, none is replaced.

    Raises:
        TargetError: if it cannot be written, or `target` is not what may be replaced by then.
    """
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(hidden_folder(target.parent))
        except OSError as error:
            raise TargetError(f"{target} cannot be made ({error.strerror}): take a folder elsewhere with -o.") from None
        try:
            yield partial
        except OSError as error:
            raise TargetError(
                f"{target} cannot be written ({error.strerror}): make room, or take another disk. "
                + ("The folder that is there is as it was." if target.exists() else "Nothing is left of it.")
            ) from error
        try:
            if target.exists():
                shutil.copymode(target, partial)
            _sync(partial)
            _publish(partial, target, replaceable)  # what is hidden, and removed, from here on is the old folder
            _sync(target.parent)
        except OSError as error:
            raise TargetError(f"{target} cannot be made ({error.strerror}): take another folder with -o.") from error


@contextlib.contextmanager
def hidden_folder(parent: Path) -> Iterator[Path]:
    """A folder to write into, which is gone when the block ends; if the process is killed, when the next such begins.

    Raises:
        OSError: if it cannot be made.
    """
    sweep(parent)
    folder = parent / f"{uuid.uuid4().hex[:8]}".join(_HIDDEN)
    folder.mkdir()
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _publish(partial: Path, target: Path, replaceable: Collection[str] | None) -> None:
    if replaceable is None or not target.exists():
        try:
            os.rename(partial, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if replaceable is None or not target.is_dir():
                raise TargetError(f"{target} was made by somebody else meanwhile, and is left as it is.") from None
    if not target.is_dir():
        raise TargetError(f"{target} has become a file meanwhile, and is left as it is.")
    _exchange(partial, target)
    try:
        _check_replaceable(partial, target, replaceable)  # again: somebody may have put something there meanwhile
    except TargetError:
        _exchange(partial, target)
        raise


def _exchange(one: Path, other: Path) -> None:
    """Give each of two folders the other's name, in one step where the system can (Linux), else in three."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            paths = os.fsencode(one), os.fsencode(other)
            if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
                return
    aside = one.with_name(f"{one.name}.old")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk. (Windows has no such call, and needs none.)"""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove what processes that were killed have left here. Those that live hold a lock on theirs."""
    for entry in parent.iterdir():
        if entry.name.startswith(_HIDDEN[0]) and entry.name.endswith(_HIDDEN[1]):
            try:
                lock = None if time.time() - entry.stat().st_mtime < _YOUNG else _lock(entry)
            except OSError:  # of somebody who lives, or somebody else's
                continue
            if lock is not None:
                shutil.rmtree(entry, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """A lock on a folder, which ends with the process. `None` where there are none, and then nothing is swept."""
    if os.name != "posix":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            return None
        raise
    return descriptor
