"""The checker of signatures: beartype, which writes a function's checks when it is first called.

Written at import, those of all functions took a second, and most of them are never called.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype


# An int is taken where a float is asked for.
CONF = BeartypeConf(is_pep484_tower=True, violation_type=TypeError)


def check_signatures_in(package: str) -> None:
    """Have every signature in the modules of a package checked as it is called (under `jax.jit`, as it is traced).

    A wrong shape is an error that names the axes. `JAXTYPING_DISABLE=1` turns the checks off. This imports JAX: where
    there are no axes, beartype alone checks the public signatures.
    """
    from jaxtyping import install_import_hook

    install_import_hook(package, f"{__name__}.{lazy_beartype.__name__}")


def lazy_beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    checked = None

    def at_first_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = beartype(conf=CONF)(function)
        return checked(*args, **kwargs)

    return at_first_call
