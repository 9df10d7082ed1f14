"""BART in JAX and Equinox: weights of Hugging Face's Flax models in, the same numbers out.

The public names, and the modules that they come from, are in `__init__.pyi`. A module is imported when one of its names
is asked for, so that the converter, which needs no JAX, starts in a third of the time.
"""

import lazy_loader as _lazy_loader
from jaxtyping import install_import_hook as _install_import_hook

from . import lazy_beartype as lazy_beartype


# Every signature in these is checked as it is called (under `jax.jit`, as it is traced): a wrong shape is an error that
# names the axes. `JAXTYPING_DISABLE=1` turns the checks off. The hook imports JAX, so where there are no axes beartype
# alone checks the public signatures.
_WITH_ARRAYS = ("model", "generation", "training", "checkpoint.folder", "checkpoint.pytree")
_install_import_hook([f"bart_eqx.{name}" for name in _WITH_ARRAYS], "bart_eqx.lazy_beartype.lazy_beartype")

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
