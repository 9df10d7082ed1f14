"""The checker of every signature in this package: beartype, which writes a function's checks when it is first called.

Written at import, those of all functions took a second, and most of them are never called.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype


# An int is taken where a float is asked for.
CONF = BeartypeConf(is_pep484_tower=True, violation_type=TypeError)


def lazy_beartype(function: Callable[..., Any]) -> Callable[..., Any]:
    checked = None

    def at_first_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = beartype(conf=CONF)(function)
        return checked(*args, **kwargs)

    return at_first_call
