"""One part of `accelerator.py`, in its own process: runs its tasks in order and writes each figure when it is known.

    python accelerator_part.py '{"peer": ["ours", "bfloat16"], "folder": ..., "size": ..., "tasks": [...]}'

A figure is a line of JSON on standard output. PyTorch's interpreter may have no JAX: each task imports what it needs.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from worker import inputs, peak_mib


# A run is repeated for SECONDS, but at least FEWEST and at most MOST times.
SECONDS, FEWEST, MOST = 4.0, 2, 10


def main() -> None:
    part = json.loads(sys.argv[1])
    figures = os.fdopen(os.dup(1), "w")  # so that what libraries print does not mix with the figures
    os.dup2(2, 1)
    tasks = of_peer(part) if part["peer"] else without_peer(part)
    for figure in tasks:
        print(json.dumps(figure), file=figures, flush=True)


def without_peer(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield device(**part["ceilings"])
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the tests' helpers and references
    for check in import_module("parity").checks(part["cases"]):
        yield dict(figure="parity", **check)


def device(elements: int, side: int) -> dict[str, Any]:
    """The device, its bandwidth in reading and copying `elements` float32 numbers, and its rate in multiplying random
    matrices `[side, side]`. On a CPU, a 16th of the elements and a quarter of the side."""
    import jax
    import jax.numpy as jnp
    from bounds import DATA_SHEET, median_seconds

    found = jax.devices()[0]
    if found.platform == "cpu":
        elements, side = elements // 16, side // 4
    large = jnp.ones(elements)
    read = large.nbytes / median_seconds(jax.jit(jnp.sum), large)
    copied = 2 * large.nbytes / median_seconds(jax.jit(lambda x: x + 1), large)
    del large
    rates = {}
    for variant, dtype, precision in (
        ("bfloat16", jnp.bfloat16, None),
        ("float32", jnp.float32, None),
        ("highest", jnp.float32, "highest"),
    ):
        square = jax.random.normal(jax.random.key(0), (side, side), dtype)
        product = jax.jit(lambda x, y, precision=precision: jnp.matmul(x, y, precision=precision))
        rates[variant] = 2 * side**3 / median_seconds(product, square, square)
    memory = found.memory_stats()
    return dict(
        figure="device",
        platform=found.platform,
        kind=found.device_kind,
        count=jax.device_count(),
        memory_bytes=None if memory is None else memory.get("bytes_limit"),
        versions={name: version(name) for name in ("jax", "jaxlib", "equinox")} | dict(python=sys.version.split()[0]),
        read_bytes_per_second=read,
        copied_bytes_per_second=copied,
        data_sheet_bytes_per_second=DATA_SHEET.get(found.device_kind),
        flops_per_second=rates,
    )


def of_peer(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    module, variant = part["peer"]
    folder, of = Path(part["folder"]), dict(peer=module, variant=variant)
    start = time.perf_counter()
    peer_module = import_module(f"peers.{module}")
    imports = time.perf_counter() - start
    if not folder.exists():
        start = time.perf_counter()
        import_module("checkpoints").checkpoint(part["size"], folder, flax=False)
        yield dict(figure="random weights", seconds=time.perf_counter() - start)
    start = time.perf_counter()
    peer = peer_module.Peer(folder, variant)
    yield dict(figure="load", **of, imports=imports, load=time.perf_counter() - start, versions=peer.versions)
    for task in part["tasks"]:
        kind, batch, src = task["kind"], task["batch"], task["src"]
        ids, targets = inputs([src] * batch, task.get("tgt", 1), part["vocab"])
        figure = dict(figure=kind, **of, **{name: value for name, value in task.items() if name != "kind"})
        if kind == "generate":
            yield figure | generation(peer, ids, task["beams"], task["new"]) | memory(peer)
        else:
            run = getattr(peer, kind)(ids, targets=targets)
            if task.get("fused"):
                yield from fused_attention(peer, run, figure)
            else:
                yield figure | timed(run) | memory(peer)


def memory(peer: Any) -> dict[str, Any]:
    return dict(peak_bytes=peer.peak_bytes(), peak_host_bytes=peak_mib() * 2**20)


def timed(run: Callable[[], Any]) -> dict[str, Any]:
    """The seconds of the first run, which compiles, and of the others."""
    start = time.perf_counter()
    run()
    first, seconds = time.perf_counter() - start, []
    while len(seconds) < FEWEST or (len(seconds) < MOST and sum(seconds) < SECONDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return dict(first=first, seconds=seconds, median=median, compile=max(first - median, 0))


def generation(peer: Any, ids: np.ndarray, beams: int, new: int) -> dict[str, Any]:
    """Prefill is a call for one token, with the cache of all: encoding, the cache, one step. Decoding is the time that
    the others add."""
    write = lambda new, room: peer.generate(ids, beams=beams, new=new, sample=False, room=room)
    written: list[np.ndarray] = []
    run = write(new, new)
    full = timed(lambda: written.append(run()))
    prefill = timed(write(1, new))
    decode = (full["median"] - prefill["median"]) / (new - 1)
    return full | dict(prefill=prefill, seconds_per_step=decode, first_row=written[-1][0].tolist())


def fused_attention(peer: Any, run: Callable[[], Any], figure: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A task with a fused attention, with the model's own, and the largest difference of what they return."""
    import equinox as eqx
    import jax

    from bart_eqx import fuse_attention

    own, states = peer.model, []
    implementation = "cudnn" if jax.default_backend() == "gpu" else "xla"
    # Fused first: the peak of the memory is that of the process until then.
    for name, change in (("fused", fuse_attention), ("own", lambda model, _: model)):
        try:  # cuDNN may be missing, or refuse: the error is recorded, and the other figures are kept
            copied = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, own)  # a training step takes its model
            peer.model = change(copied, implementation)
            yield figure | dict(attention=name, implementation=implementation) | timed(run) | memory(peer)
            states.append(run())
        except Exception as error:
            yield figure | dict(attention=name, error=f"{type(error).__name__}: {error}"[:4000])
    peer.model = own
    if len(states) == 2 and states[0] is not None:
        got, wanted = (np.asarray(x, np.float32) for x in states)
        difference = float(np.abs(got - wanted).max() / np.abs(wanted).max())
        yield figure | dict(figure="difference of fused attention", difference=difference)


if __name__ == "__main__":
    main()
