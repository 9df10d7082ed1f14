"""Rows that the caller has spread over several devices: a call keeps them there, and its result lies there too."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ..typing import Array


@dataclasses.dataclass(frozen=True)
class RowSharding:
    """How the batch axes of a call lie on a mesh."""

    mesh: Mesh | AbstractMesh
    batch_spec: tuple[Any, ...]
    """The mesh axes of each batch axis, as in a `PartitionSpec`."""

    @classmethod
    def of(cls, arrays: Sequence[tuple[Any, int]]) -> "RowSharding | None":
        """The sharding of the first array that is on several devices; `None` if none is, or if they are traced.

        Args:
            arrays: Each with the number of its axes that are not batch axes.
        """
        for array, others in arrays:
            if isinstance(array, Array) and not isinstance(array, Tracer):
                sharding = array.sharding
                if isinstance(sharding, NamedSharding) and sharding.num_devices > 1:
                    spec = (*sharding.spec, *[None] * (array.ndim - len(sharding.spec)))
                    return cls(sharding.mesh, spec[: array.ndim - others])
        return None

    def put_rows(self, x: Any) -> Array:
        """`x` `[rows, ...]`, where `rows` are all batch axes as one."""
        names = [entry if isinstance(entry, tuple) else (entry,) for entry in self.batch_spec if entry is not None]
        axes = tuple(name for entry in names for name in entry)
        return jax.device_put(x, NamedSharding(self.mesh, PartitionSpec(axes or None)))

    def put_batch(self, tree: Any) -> Any:
        """The arrays of `tree`, `[*batch, ...]`, in the caller's axes."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(*self.batch_spec)))
