"""The questions about the platform, and the switch that turns every kernel off."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax


# A context of JAX's own is part of the key of every compiled function: nothing that was traced outside is used inside.
_plain = jax.make_user_context(False)


def plain() -> AbstractContextManager[None]:
    """A context in which no kernel is used: every function runs its reference implementation.

    For debugging, and for measuring what the kernels gain. Functions that were compiled outside it are compiled again.
    """
    return _plain(True)


def by_platform(reference: Callable[..., Any], *args: Any, **kernels: Callable[..., Any]) -> Any:
    """`reference(*args)`.

    Args:
        reference: The mathematics; it serves every platform that has no kernel.
        *args: Arrays, or PyTrees of arrays.
        **kernels: By the name of a platform, `cpu`, `cuda`, `rocm` or `tpu`: a function that returns the same. It is
            chosen as the program is *lowered*, so that `jax.export` for another platform carries no kernel of this one.
    """
    if _plain.value:
        return reference(*args)
    return jax.lax.platform_dependent(*args, default=reference, **kernels)


def by_rows(reference: Callable[..., Any], *args: Any, cpu: Callable[..., Any]) -> Any:
    """`reference(*args)`, and `cpu(*args)` on a CPU that is one device: with several, a loop over rows that are sharded
    would gather them all."""
    try:
        one_cpu = jax.device_count("cpu") == 1
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        one_cpu = False
    return by_platform(reference, *args, cpu=cpu) if one_cpu else reference(*args)
