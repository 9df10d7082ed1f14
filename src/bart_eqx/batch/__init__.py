"""Tasks over files of any size: in parts, each computed once even if processes die, which are then joined.

Nothing here needs JAX. A task is a function from records to results, which the caller provides.
"""

import lazy_loader as _lazy_loader


__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
