"""The mesh: three axes, each of which divides something different.

| axis | divides | known as |
|---|---|---|
| `data` | the batch | data parallelism |
| `fsdp` | the batch, and each large parameter, which is gathered where it is used | ZeRO-3, arXiv:1910.02054 |
| `tensor` | heads and feed-forward units; two sums of states in each layer | arXiv:1909.08053 |
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh


AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
"""The axes that divide a batch."""


def make_mesh(*, data: int | None = None, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor`, of type Auto: the compiler finds the sharding of every step.

    Args:
        data: The number of devices along `data`; by default, as many as the other axes leave.
        fsdp: Along `fsdp`.
        tensor: Along `tensor`, a divisor of the number of heads. These devices exchange states in every layer, so they
            are neighbours: on one machine, where it has that many.
        devices: By default all devices of all processes.

    Raises:
        ValueError: if the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if data is None and fsdp >= 1 and tensor >= 1:
        data = len(devices) // (fsdp * tensor)
    shape = (data or 0, fsdp, tensor)
    if min(shape) < 1 or math.prod(shape) != len(devices):
        raise ValueError(
            f"data * fsdp * tensor must be the number of devices, {len(devices)}. Got data={data}, fsdp={fsdp}, "
            f"tensor={tensor}."
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
