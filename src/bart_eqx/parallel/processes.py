"""Several processes as one job: joining it, and failing together.

`jax.distributed` connects the processes, and ends all of them when one is gone. An error that Python raises on one of
them is not known to the others, which would wait for it in the next collective.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather


Item = TypeVar("Item")
HEARTBEAT_TIMEOUT = 60
"""Seconds without a heartbeat after which a process counts as dead, and the job ends. A separate thread sends the
heartbeats, which neither Python nor a long step blocks. JAX's default is 100."""


class OtherProcessError(RuntimeError):
    """Another process of the job failed, and this one cannot go on alone."""


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
) -> None:
    """Join the other processes of a job; in a process that is alone, do nothing.

    Call it before anything else of JAX. Without arguments it reads the environment: `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; else what JAX finds in a Slurm step of several tasks, under Open MPI, in
    an indexed Job of Kubernetes, or on a Cloud TPU.

    Args:
        coordinator: The address and port of process 0, as `"10.0.0.1:1234"`.
        processes: How many there are.
        process: Which of them this is, from 0.
        heartbeat_timeout: Seconds without a heartbeat after which a process counts as dead. All others then end, with
            an error that names it.

    Raises:
        ValueError: if some of the three are given and the environment lacks the others.
        RuntimeError: if JAX has used its devices already, or a process does not appear within five minutes.
    """
    if jax.distributed.is_initialized():
        return
    environment = os.environ
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    processes = _number(environment, "JAX_NUM_PROCESSES") if processes is None else processes
    process = _number(environment, "JAX_PROCESS_ID") if process is None else process
    given = dict(coordinator=coordinator, processes=processes, process=process)
    cluster = cluster_of(environment)
    missing = [name for name, value in given.items() if value is None]
    if cluster is None and len(missing) == len(given):
        return
    if cluster is None and missing:
        raise ValueError(
            f"`coordinator`, `processes` and `process` go together where no cluster gives them. Missing: "
            f"{', '.join(missing)}. The variables are JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        )
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=heartbeat_timeout)
    except ValueError as error:  # JAX found less than the variables promise
        raise ValueError(
            f"This process is one of several ({cluster or coordinator}), and JAX cannot join them ({error}). Give "
            "`coordinator`, `processes` and `process`."
        ) from None


def cluster_of(environment: Mapping[str, str]) -> str | None:
    """The kind of cluster that started this process as one of several; `None` if it is alone.

    Args:
        environment: The variables of the process.
    """
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        return "Slurm"
    if "OMPI_MCA_orte_hnp_uri" in environment and int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "Cloud TPU"
    if environment.keys() >= {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"}:
        return "Kubernetes"
    # On Google Compute Engine the other hosts of a TPU are in the metadata of the machine, which JAX asks.
    has_tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0"))) and importlib.util.find_spec("libtpu")
    return "Cloud TPU" if has_tpu and "TPU_SKIP_MDS_QUERY" not in environment else None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    return int(environment[name]) if name in environment else None


@contextlib.contextmanager
def failing_together(action: str) -> Iterator[None]:
    """A block that succeeds on every process, or fails on every one. At its end they wait for each other.

    All processes must enter it. An error that ends one of them at once, such as a signal, is found by its heartbeat.

    Args:
        action: What the block does, for the message on the processes where it did not fail.

    Raises:
        OtherProcessError: if it failed on another process.
    """
    try:
        yield
    except Exception as error:
        exchange(f"{type(error).__name__}: {error}")
        raise
    failed = {number: message for number, message in enumerate(exchange("")) if message}
    if failed:
        messages = "; ".join(f"process {number}: {message}" for number, message in failed.items())
        raise OtherProcessError(f"{action} failed on another process, {messages}")


def exchange(text: str) -> list[str]:
    """The texts of all processes, in their order. All must call it."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = process_allgather(np.int32(content.size))
    padded = np.zeros(max(1, int(sizes.max())), np.uint8)
    padded[: content.size] = content
    return [bytes(row[:size]).decode() for row, size in zip(process_allgather(padded), sizes, strict=True)]


def map_over_processes(function: Callable[[Sequence[Item]], list[Any]], items: Sequence[Item]) -> list[Any]:
    """`function(items)`, a list with a result for each item. Each process computes a part. All must call it.

    Args:
        function: Its results must be what JSON has. In a process without a part it is called with no items.
        items: The same in all processes. Each takes every n-th one, so that sorted items are long and short in all.

    Raises:
        OtherProcessError: if the function failed on another process.
    """
    count = jax.process_count()
    if count == 1:
        return function(items)
    with failing_together("computing a part"):
        own = function(items[jax.process_index() :: count])
    parts = [json.loads(text) for text in exchange(json.dumps(own))]
    return [parts[index % count][index // count] for index in range(len(items))]


def from_first(value: Any) -> Any:
    """The value of process 0, as JSON has it, on all processes. All must call it."""
    return value if jax.process_count() == 1 else json.loads(exchange(json.dumps(value))[0])


def any_process(value: bool) -> bool:
    """Whether it is true on any process. All must call it."""
    return value if jax.process_count() == 1 else bool(process_allgather(np.bool_(value)).any())


def spans_processes(tree: object) -> bool:
    """Whether a part of an array is on another process."""
    return any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in jax.tree.leaves(tree))
