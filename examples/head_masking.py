"""Attention-head masking (arXiv:1905.10650): heads are scaled or switched off; the gradient is their importance."""

import equinox as eqx
from jaxtyping import Array, Float

import bart_eqx


class MaskedHeads(bart_eqx.AbstractLinear):
    """The `out_proj` of an attention, which reads the outputs of all heads; each times a factor."""

    out_proj: bart_eqx.AbstractLinear
    head_mask: Float[Array, " heads"]

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        heads = x.reshape(*x.shape[:-1], len(self.head_mask), -1)
        return self.out_proj((heads * self.head_mask[:, None].astype(x.dtype)).reshape(x.shape))


def mask_heads(
    attention: bart_eqx.BartAttention, head_mask: Float[Array, " {attention.num_heads}"]
) -> bart_eqx.BartAttention:
    """The attention with a factor for each head: 0 for a head that is off."""
    return eqx.tree_at(lambda attention: attention.out_proj, attention, MaskedHeads(attention.out_proj, head_mask))
