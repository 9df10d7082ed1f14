"""The names of axes, one per axis, used in every signature of the package.

| axis | meaning |
|---|---|
| `batch` | sequences that are computed together; `*batch` is any number of such axes, also none |
| `beams` | sequences that are written about one source: beams, or draws |
| `src`, `tgt` | source tokens (encoder), target tokens (decoder) |
| `new` | tokens of this call, where earlier ones are already in a cache |
| `mask_len` | what a decoder's mask covers: `new`, or `max_len` |
| `max_len`, `slots` | slots of a cache |
| `q`, `kv` | positions that ask, positions that are asked, in one attention |
| `heads`, `head_dim` | attention heads, and the width of one |
| `dim`, `ffn` | width of the model, and of its feed-forward layers |
| `vocab`, `labels` | token ids, classes |
| `buffer`, `steps` | slots for the tokens of a sequence; those after its prompt |
"""

from typing import TYPE_CHECKING

import jax
import jax.random as jr
import numpy as np
from jaxtyping import AbstractDtype, Bool, Integer, PRNGKeyArray


Array = jax.Array
HostArray = jax.Array | np.ndarray  # what the public edge takes: arrays straight from a tokenizer are NumPy's

if TYPE_CHECKING:
    from typing import Annotated as Mask
else:

    class Mask(AbstractDtype):
        """False or zero at padding: booleans, or integers as from tokenizers; not floats, which may be additive."""

        dtypes = (*Bool.dtypes, *Integer.dtypes)


def split_or_none(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray] | list[None]:
    """`num` keys from one, or `num` times `None`: nothing random was asked for."""
    return [None] * num if key is None else list(jr.split(key, num))
