"""The names of axes, one per axis, used in every signature of the package; and the types that signatures share.

| axis | meaning |
|---|---|
| `batch` | sequences that are computed together; `*batch` is any number of such axes, also none |
| `beams` | sequences generated for one source: beams, or samples |
| `src`, `tgt` | source tokens (encoder), target tokens (decoder) |
| `new` | tokens of this call, where a cache holds earlier ones |
| `mask_len` | tokens that a decoder's mask covers: `new`, or `max_len` |
| `max_len`, `slots` | slots of a cache |
| `q`, `kv` | queries, and keys with their values, of one attention |
| `heads`, `kv_heads`, `head_dim` | attention heads, heads of keys and values, and the width of one |
| `dim`, `ffn` | width of the model, and of its feed-forward layers |
| `vocab`, `labels` | token ids, classes |
| `buffer`, `steps` | slots for the tokens of a sequence; those after its prompt |
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import AbstractDtype, Bool, Integer


Array = jax.Array
Dim = Any  # the size of an axis: an int, or symbolic in `jax.export`
HostArray = jax.Array | np.ndarray  # what the public edge takes: arrays straight from a tokenizer are NumPy's

if TYPE_CHECKING:
    from typing import Annotated as Mask
else:

    class Mask(AbstractDtype):
        """False or zero at padding: booleans, or integers as from tokenizers; not floats, which may be additive."""

        dtypes = (*Bool.dtypes, *Integer.dtypes)
