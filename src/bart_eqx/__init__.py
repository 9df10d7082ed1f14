"""BART in JAX and Equinox: weights of Hugging Face's Flax models in, the same numbers out.

The public names, and the modules that they come from, are in `__init__.pyi`. A module is imported when one of its names
is asked for, so that the converter, which needs no JAX, starts in a third of the time.
"""

import lazy_loader as _lazy_loader


__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
