"""Folders that appear complete or not at all.

Files are written into a hidden sibling folder and flushed to the disk; then it is renamed. If the name is taken, the
two folders are exchanged in one step, and the old one is removed. At every moment the name refers to the old folder or
to the new one, complete, whatever happens to the process or the machine.
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
_YOUNG = 60  # seconds; by then its process has locked it
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


def check_target(target: Path, *, overwrite: bool, replaceable: Collection[str], source: Path | None = None) -> Path:
    """Check that `target` can be written, before anything is downloaded or written.

    Args:
        target: The folder to write.
        overwrite: Whether it may replace a folder of this name.
        replaceable: The only files that this folder may hold then.
        source: A folder that must stay unchanged.

    Returns:
        The target, with links resolved.

    Raises:
        TargetError: if the target exists and may not be replaced, is or contains the source, or cannot be written.
    """
    try:
        target = target.expanduser().resolve()
        exists = target.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a long name, a loop of links, an unknown user, a null byte
        raise TargetError(f"{str(target)!r:.200} is not a valid path ({error}): choose another folder (-o).") from None
    if source is not None and exists and (target.samefile(source) or source.resolve().is_relative_to(target)):
        raise TargetError(f"{target} is the source or contains it: choose another folder (-o).")
    if exists and not target.is_dir():
        raise TargetError(f"{target} is a file: choose another folder (-o).")
    if exists and not overwrite:
        raise TargetError(
            f"{target} exists: choose another folder (-o), or replace it with --overwrite (`overwrite=True`)."
        )
    if exists:
        _check_replaceable(target, target, replaceable)
        if Path.cwd().is_relative_to(target) or os.path.ismount(target):
            raise TargetError(f"{target} holds the current directory, or is a mount point: choose another folder (-o).")
    parent = next(folder for folder in target.parents if folder.exists())
    try:
        with hidden_folder(parent):  # root may write everywhere, and yet not into /proc
            pass
    except OSError as error:
        raise TargetError(
            f"{parent} is not writable ({error.strerror}): choose a folder elsewhere (-o), or change its permissions."
        ) from None
    if len(os.fsencode(target.name)) > 255:
        raise TargetError(f"{target.name[:40]!r}... is longer than 255 bytes: choose another folder (-o).")
    return target


def _check_replaceable(folder: Path, name: Path, replaceable: Collection[str]) -> None:
    """Check that `folder`, called `name` in messages, holds only files that may be replaced."""
    try:
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in replaceable)
    except OSError as error:
        raise TargetError(f"{name} cannot be listed ({error.strerror}): choose another folder (-o).") from None
    if others:
        raise TargetError(
            f"{name} holds files that no conversion writes: {', '.join(map(repr, others[:5]))}"
            f"{', ...' if len(others) > 5 else ''}. Choose another folder (-o), or remove them."
        )


def check_space(folder: Path, wanted: int, remedy: str = "choose another disk") -> None:
    """Check that the disk of `folder`, which need not exist yet, has `wanted` bytes free.

    Raises:
        TargetError: if it has not. The message advises to free some space, or to do what `remedy` says.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    if usage.total and wanted > usage.free:  # some network disks do not tell their size, and say 0
        raise TargetError(
            f"{folder} needs {wanted:,} bytes, and {usage.free:,} are free: free some space, or {remedy}."
        )


@contextlib.contextmanager
def atomic_folder(target: Path, *, replaceable: Collection[str] | None = None) -> Iterator[Path]:
    """A folder to write into, which becomes `target` at the end of the block. If the block fails, it is removed.

    Args:
        target: The folder to write.
        replaceable: The only files that an existing `target` may hold when it is replaced; `None` if it may not be.

    Raises:
        TargetError: if the folder cannot be written, or `target` exists by then and may not be replaced.
    """
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(hidden_folder(target.parent))
        except OSError as error:
            raise TargetError(
                f"{target} cannot be created ({error.strerror}): choose a folder elsewhere (-o)."
            ) from None
        try:
            yield partial
        except OSError as error:
            raise TargetError(
                f"{target} cannot be written ({error.strerror}): free some space, or choose another disk. "
                + ("The existing folder is unchanged." if target.exists() else "Nothing was left behind.")
            ) from error
        try:
            if target.exists():
                shutil.copymode(target, partial)
            sync_folder(partial)
            _publish(partial, target, replaceable)  # from here on, `partial` is the old folder, which is removed
            sync_folder(target.parent)
        except OSError as error:
            raise TargetError(f"{target} cannot be created ({error.strerror}): choose another folder (-o).") from error


@contextlib.contextmanager
def hidden_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` to write into, removed at the end of the block; after a kill, by the next such block.

    Raises:
        OSError: if it cannot be created.
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
                raise TargetError(
                    f"{target} was created by another process meanwhile, and is left unchanged."
                ) from None
    if not target.is_dir():
        raise TargetError(f"{target} was replaced by a file meanwhile, and is left unchanged.")
    _exchange(partial, target)
    try:
        _check_replaceable(partial, target, replaceable)  # again: other files may have appeared meanwhile
    except TargetError:
        _exchange(partial, target)
        raise


def _exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders: in one step on Linux, in three renames elsewhere."""
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


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk. (Windows has no such call, and needs none.)"""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the hidden folders of killed processes. A live process holds a lock on its own."""
    for entry in parent.iterdir():
        if entry.name.startswith(_HIDDEN[0]) and entry.name.endswith(_HIDDEN[1]):
            try:
                lock = None if time.time() - entry.stat().st_mtime < _YOUNG else _lock(entry)
            except OSError:  # locked by a live process, or owned by another user
                continue
            if lock is not None:
                shutil.rmtree(entry, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """A lock on a folder that ends with the process; `None` where there are no locks, and nothing is swept."""
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
