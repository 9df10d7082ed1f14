"""`run_file_on_ray`: the parts of a file, computed by the workers of a Ray cluster.

Only descriptions of parts travel: a worker reads the input and writes its parts itself, on a disk that all machines
share, and builds its task from a name and arguments, so that no array is ever pickled.
"""

import contextlib
import dataclasses
import importlib
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from beartype import beartype

from ..lazy_beartype import CONF
from .errors import BatchError
from .output import Output
from .parts import Part
from .records import RecordFormat
from .run import PART_BYTES, Report, check_part_bytes, compute_part, open_output, report
from .run_records import Run


_MAX_DEATHS = 3
_TICK = 1  # seconds between two calls of `before_wait`


@dataclasses.dataclass
class PartWorker:
    """The actor on a worker.

    Args:
        task: The function that builds the task, as `module:function`.
        arguments: Its arguments.
        input: The input.
        output: The output.
        format: How lines are read.
    """

    task: str
    arguments: Mapping[str, Any]
    input: Path
    output: Output
    format: RecordFormat
    _run: Run | None = dataclasses.field(default=None, init=False)

    def load(self) -> tuple[int, int]:
        """Build the task. Not in `__init__`, whose exceptions Ray reports as the death of the worker."""
        self._run = resolve(self.task)(**self.arguments)
        return 0, 0

    def compute(self, part: Part) -> tuple[int, int]:
        """Compute a part and write it; the number of results and of failures."""
        assert self._run is not None, "`load` comes first"
        lines = compute_part(self._run, self.input, self.output, part, self.format)
        return lines.records, lines.failed


def resolve(task: str) -> Callable[..., Run]:
    """The function that `module:function` names.

    Raises:
        ValueError: if there is none.
    """
    module, _, name = task.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"A task is named `module:function`. Got {task!r} ({error}).") from error


@beartype(conf=CONF)
def run_file_on_ray(
    task: str,
    arguments: Mapping[str, Any],
    input: str | Path,
    output: str | Path,
    *,
    format: RecordFormat,
    identity: Mapping[str, Any],
    workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    runtime_env: Mapping[str, Any] | None = None,
    address: str | None = None,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
    before_wait: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """As `run_file`, on a Ray cluster. Both continue what the other began.

    A worker that dies, or whose machine does, is replaced, and its part is computed again. Workers join as the cluster
    has room for them.

    Args:
        task: The function that builds the task on a worker, as `module:function`; `load` of `run_file` with arguments.
        arguments: Its arguments, by name: strings and numbers, not a model.
        input: A regular file, on a disk that all machines share.
        output: The file to write, likewise.
        format: As for `run_file`.
        identity: As for `run_file`.
        workers: The most workers at once.
        num_cpus: The CPUs of each worker, for Ray's scheduler. XLA uses all cores of a machine: on CPU give their
            number, so that each machine has one worker.
        num_gpus: The GPUs of each worker.
        runtime_env: Ray's, for the workers: environment variables, packages.
        address: The address of the cluster. By default what `ray.init` finds: that of this process, `RAY_ADDRESS`, one
            on this machine; or else a new cluster in this process, for the time of the call.
        part_bytes: As for `run_file`.
        overwrite: As for `run_file`.
        before_wait: Called at least once a second. An exception ends the run.
        progress: Called with the parts that are done, and all parts.

    Raises:
        ImportError: if the extra `ray` is not installed.
        BatchError: as `run_file` does; also if workers die three times at one part, or three in succession as they
            load.
        ValueError: if an argument is out of range.
        Exception: what a worker raises.
    """
    check_part_bytes(part_bytes)
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1. Got {workers}.")
    with open_output(input, output, format, identity, None, part_bytes, overwrite) as (source, target, manifest):
        missing = target.missing_parts(None)
        first = next(missing, None)
        records = failed = computed = 0
        if first is not None:
            worker = task, arguments, source.resolve(), target, format
            options = dict(num_cpus=num_cpus, num_gpus=num_gpus, runtime_env=runtime_env, scheduling_strategy="SPREAD")
            before = target.parts_done()
            with _cluster(address):
                for done in _run_parts(worker, itertools.chain([first], missing), workers, options, before_wait):
                    records, failed, computed = records + done[0], failed + done[1], computed + 1
                    progress(before + computed, manifest.parts)
        return report(target, manifest, records, failed, computed)


def _run_parts(
    worker: tuple[Any, ...],
    parts: Iterator[Part],
    workers: int,
    options: Mapping[str, Any],
    before_wait: Callable[[], object],
) -> Iterator[tuple[int, int]]:
    """Have free workers compute the parts, and yield the counts of each part when it is done.

    Args:
        worker: The arguments of a `PartWorker`.
        parts: The parts.
        workers: The most workers at once.
        options: Ray's, for each.
        before_wait: Called at least once a second.
    """
    ray = _ray()
    remote = ray.remote(PartWorker).options(**options)
    running: dict[Any, tuple[Any, Part | None]] = {}  # the part that each actor computes; `None` while it loads
    deaths: Counter[Part | None] = Counter()

    def start() -> None:
        actor = remote.remote(*worker)
        running[actor.load.remote()] = actor, None

    try:
        for _ in range(workers):
            start()
        waiting = next(parts, None)
        while waiting is not None or any(part is not None for _, part in running.values()):
            before_wait()
            for done in ray.wait(list(running), timeout=_TICK)[0]:
                actor, part = running.pop(done)
                try:
                    counts = ray.get(done)
                except ray.exceptions.RayTaskError as error:  # what the worker raised
                    raise (error.cause or error) from None
                except ray.exceptions.RayError as error:
                    ray.kill(actor)  # it may only be unreachable
                    deaths[part] += 1
                    if deaths[part] == _MAX_DEATHS:
                        where = "while loading the task" if part is None else f"at part {part.index} (line {part.line})"
                        raise BatchError(
                            f"A worker died {where}, {_MAX_DEATHS} times: {' '.join(str(error).split())}"
                        ) from None
                    if part is not None:
                        parts = itertools.chain([part] if waiting is None else [waiting, part], parts)
                        waiting = next(parts)
                    start()
                    continue
                if part is not None:
                    yield counts
                deaths[None] = 0
                if waiting is not None:
                    running[actor.compute.remote(waiting)] = actor, waiting
                    waiting = next(parts, None)
    finally:
        for actor, _ in running.values():
            ray.kill(actor)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, for a block; nothing if this process is connected."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, log_to_driver=False, include_dashboard=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process with status 1
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            "A Ray cluster needs the extra `ray`: `pip install 'bart_eqx[ray]'`. Without it, `shard` computes the same "
            "parts in processes that you start."
        ) from error
