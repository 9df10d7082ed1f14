"""Text in, text out: the tokenizer, and one class per task over (model, tokenizer).

The public names are in `__init__.pyi`, and imported when they are used: the tokenizer needs no JAX.
"""

import lazy_loader as _lazy_loader


__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
