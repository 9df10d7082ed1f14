"""An output, and the folder next to it in which its parts are collected until they are joined."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from ..locks import Lock, waiting
from .errors import ManifestMismatchError, OutputError, OutputLockedError
from .files import PARTIAL, atomic_file, write_file
from .manifest import MANIFEST, Manifest, Request, read_manifest, read_parts, write_manifest
from .parts import Part, hash_input
from .run_records import Lines


_DONE = "done.json"
_RESULTS, _FAILURES = "part-{:05}.jsonl", "part-{:05}.failures.jsonl"
_RESULTS_PATTERN = re.compile(r"part-\d+\.jsonl")
_BLOCK = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several processes that compute one output: the parts whose index is `index` modulo `count`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"A shard is k/n with k from 0 to n - 1. Got {self.index}/{self.count}.")

    def __contains__(self, part: Part) -> bool:
        return part.index % self.count == self.index


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished output.

    Args:
        records: The number of lines.
        failed: The number of failures.
        size: The number of bytes.
        blake3: Their hash.
    """

    records: int
    failed: int
    size: int
    blake3: str


@dataclasses.dataclass(frozen=True)
class Output:
    """An output, and the folder of its parts.

    `OUT.jsonl` has its parts in `OUT.parts/`, and its failures in `OUT.failures.jsonl`.

    Args:
        path: The output.
    """

    path: Path

    @property
    def folder(self) -> Path:
        return self._next_to_it(".parts")

    @property
    def failures(self) -> Path:
        return self._next_to_it(".failures.jsonl")

    @property
    def _prepare_lock(self) -> Path:
        return self.folder / "prepare.lock"

    def _next_to_it(self, ending: str) -> Path:
        return self.path.with_name(re.sub(r"\.jsonl?$", "", self.path.name) + ending)

    @contextlib.contextmanager
    def open(self, input: Path, request: Request, shard: Shard | None, *, overwrite: bool) -> Iterator[Manifest]:
        """Hold the output for a block, with its manifest: the one of an earlier run, or a new one.

        Args:
            input: The file from which it is computed.
            request: How it is computed.
            shard: The parts that this process computes; `None` for all, without other processes.
            overwrite: Whether an output of another origin may be replaced.

        Raises:
            OutputLockedError: if another process writes it.
            ManifestMismatchError: if it was started differently, and `overwrite` is false.
            OutputError: if it cannot be written, or exists and `overwrite` is false.
            InputError: if the input cannot be read.
        """
        if self.path.is_dir():
            raise OutputError(f"{self.path} is a folder: give the name of a file.")
        if self.path.exists() and input.exists() and self.path.samefile(input):
            raise OutputError(f"{self.path} is the input: choose another name for the output.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be created ({error.strerror}): choose another output.") from None
        with contextlib.ExitStack() as stack:
            with waiting(_lock(self._prepare_lock)):
                whole = _lock(self.folder / "lock")
                stack.callback(self._leave, whole)
                if not whole.acquire("exclusive" if shard is None else "shared"):
                    raise OutputLockedError(
                        f"{self.path} is being written by another process: wait for it, or stop it."
                    )
                if shard is not None:
                    own = _lock(self.folder / f"shard-{shard.index}-of-{shard.count}.lock")
                    stack.callback(own.release)
                    if not own.acquire("exclusive"):
                        raise OutputLockedError(
                            f"Shard {shard.index}/{shard.count} of {self.path} is being computed by another process."
                        )
                manifest = self._prepare(input, request, whole, alone=shard is None, overwrite=overwrite)
            yield manifest

    def _prepare(self, input: Path, request: Request, whole: Lock, *, alone: bool, overwrite: bool) -> Manifest:
        manifest = read_manifest(self.folder)
        if manifest is None:
            if self.path.exists() and not overwrite:
                raise OutputError(f"{self.path} exists: choose another name, or replace it with `overwrite`.")
            self._clear()  # of a run that was killed while it cleared
            return write_manifest(self.folder, input, request)
        difference = manifest.difference(input, request)
        damage = None if difference else self._damage()
        if difference is None and damage is None:
            return manifest
        if not overwrite and damage:
            raise ManifestMismatchError(f"{damage}: restore it, or start again with `overwrite`.")
        if not overwrite and (self.done() is not None or self.parts_done()):
            raise ManifestMismatchError(
                f"{self.path} was started differently: {difference}. Use the same, choose another output, or start "
                "again with `overwrite`."
            )
        if not alone and not whole.acquire("exclusive"):
            raise OutputLockedError(f"{self.path} is being written by other shards, differently: {difference}.")
        self._clear()
        whole.acquire("exclusive" if alone else "shared", wait=True)
        return write_manifest(self.folder, input, request)

    def _damage(self) -> str | None:
        """Why a finished output is no longer what it was."""
        done = self.done()
        if done is None:
            return None
        if not self.path.exists():
            return f"{self.path} was finished, and is not there any more"
        if self.path.stat().st_size != done.size or hash_input(self.path) != done.blake3:
            return f"{self.path} was finished, and was changed since"
        return None

    def _clear(self) -> None:
        """Remove all that belongs to an old manifest; the manifest first, so that no later run adopts its parts."""
        for name in (MANIFEST, _DONE):
            (self.folder / name).unlink(missing_ok=True)
        self._remove("part-*")

    def _leave(self, whole: Lock) -> None:
        """Release the lock; the last process removes the partial files of killed ones.

        It holds the lock of starting processes meanwhile: its exclusive lock would refuse one that starts just then.
        """
        starting = _lock(self._prepare_lock)
        if starting.acquire("exclusive") and whole.acquire("exclusive") and whole.supported:
            self._remove(f"*{PARTIAL}")
        whole.release()
        starting.release()

    def _remove(self, pattern: str) -> None:
        for path in self.folder.glob(pattern):
            path.unlink(missing_ok=True)

    def done(self) -> Done | None:
        """The finished output; `None` if it is not finished."""
        path = self.folder / _DONE
        return Done(**json.loads(path.read_text())) if path.exists() else None

    def missing_parts(self, shard: Shard | None) -> Iterator[Part]:
        """The parts that are to be computed, in order: all, or those of a shard."""
        for part in read_parts(self.folder):
            if (self.folder / _DONE).exists():
                return
            if (shard is None or part in shard) and not (self.folder / _RESULTS.format(part.index)).exists():
                yield part

    def parts_done(self) -> int:
        """The number of parts that are computed, by any process, and not yet joined."""
        with os.scandir(self.folder) as entries:
            return sum(_RESULTS_PATTERN.fullmatch(entry.name) is not None for entry in entries)

    def write(self, part: Part, lines: Lines) -> None:
        """Write a part. Its results appear last: where they are, it is complete.

        Raises:
            OutputError: if it cannot be written.
        """
        failures = self.folder / _FAILURES.format(part.index)
        if lines.failures:
            write_file(failures, b"".join(lines.failures))
        else:
            failures.unlink(missing_ok=True)  # of a computation that was killed
        write_file(self.folder / _RESULTS.format(part.index), b"".join(lines.results))

    def join(self, manifest: Manifest) -> Done | None:
        """Join the parts, if all of them are computed; `None` if not.

        Raises:
            OutputError: if the output cannot be written.
        """
        with waiting(_lock(self.folder / "join.lock")):  # several shards may end at once
            done = self.done()
            if done is not None:
                return done
            if self.parts_done() < manifest.parts:
                return None
            failed, _ = self._join(_FAILURES, self.failures)
            if not failed:
                self.failures.unlink()
            records, digest = self._join(_RESULTS, self.path)
            done = Done(records, failed, self.path.stat().st_size, digest)
            write_file(self.folder / _DONE, (json.dumps(dataclasses.asdict(done)) + "\n").encode())
            self._remove("part-*")
            return done

    def _join(self, name: str, path: Path) -> tuple[int, str]:
        """Join the files of all parts that have one; the number of lines, and their hash."""
        lines, hasher = 0, blake3()
        with atomic_file(path, self.folder) as joined:
            for part in read_parts(self.folder):
                with contextlib.suppress(FileNotFoundError), (self.folder / name.format(part.index)).open("rb") as file:
                    while block := file.read(_BLOCK):
                        joined.write(block)
                        hasher.update(block)
                        lines += block.count(b"\n")
        return lines, hasher.hexdigest()


def _lock(path: Path) -> Lock:
    try:
        return Lock(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be created ({error.strerror}): choose another folder.") from error
