"""The libraries of the extra `train`, imported when they are used."""

import importlib
from types import ModuleType


def library(name: str) -> ModuleType:
    """The module of this name.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Training needs {name.split('.')[0]}. Install it with `pip install 'bart-eqx[train]'`."
        ) from error
