"""Converting checkpoints of Hugging Face's BART: `python -m bart_eqx.convert SOURCE`, or `convert` from Python.

Arrays are copied from file to file. No model is built, and JAX is not imported. The modules are imported when one of
the names is asked for, so that the command handles Ctrl-C while it imports them.
"""

import lazy_loader as _lazy_loader


__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
