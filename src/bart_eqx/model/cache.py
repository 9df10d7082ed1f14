"""The decoder's memory, as a PyTree of arrays that the caller holds and passes on."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..kernels.slots import write_slots
from ..typing import Array, Dim
from .checks import is_known


class KVCache(eqx.Module):
    """Keys and values of one attention, in the layout that `AbstractAttention.attend` reads."""

    keys: Float[Array, "*batch kv_heads head_dim max_len"]
    values: Float[Array, "*batch kv_heads max_len head_dim"]

    def write(
        self,
        keys: Float[Array, "*batch kv_heads head_dim new"],
        values: Float[Array, "*batch kv_heads new head_dim"],
        start: Integer[Array, ""],
    ) -> "KVCache":
        """The cache with `new` tokens from slot `start` on, in the cache's dtype. The caller ensures that they fit."""
        keys, values = keys.astype(self.keys.dtype), values.astype(self.values.dtype)
        if keys.shape == self.keys.shape:
            return KVCache(keys, values)  # `start` can only be 0: a whole sequence replaces the cache, without a copy
        return KVCache(write_slots(self.keys, keys, start, axis=-1), write_slots(self.values, values, start, axis=-2))


class DecoderCache(eqx.Module):
    """All that a decoder needs of earlier tokens, and of the source: arrays only, the same structure at every step.

    A slot holds a token's keys and values in every layer. Slots below `position` are taken.
    """

    self_attn: tuple[KVCache, ...]
    """One per layer, written by `decode`."""
    cross_attn: tuple[KVCache, ...] | None
    """One per layer, computed once from the source by `init_cache`; `None` for a decoder without an encoder."""
    attention_mask: Bool[Array, "*batch max_len"]
    """False at padding. Slots that are not written yet are hidden by the causal mask."""
    positions: Integer[Array, "*batch max_len"]
    """The position of the token in each slot."""
    encoder_attention_mask: Bool[Array, "*batch src"] | None
    encoder_positions: Integer[Array, "*batch src"] | None
    """The position of each source token."""
    position: Integer[Array, ""]
    """The next free slot: one number for all layers and rows."""

    @property
    def max_length(self) -> Dim:
        return self.attention_mask.shape[-1]

    def with_room(self, max_length: int) -> "DecoderCache":
        """The same with `max_length` slots. There may be more of them than positions: beams share a position."""
        extra = max_length - self.max_length
        if extra == 0:
            return self
        lengthened = lambda x, axis: jnp.pad(x, [(0, extra if i == x.ndim + axis else 0) for i in range(x.ndim)])
        return DecoderCache(
            self_attn=tuple(KVCache(lengthened(kv.keys, -1), lengthened(kv.values, -2)) for kv in self.self_attn),
            cross_attn=self.cross_attn,
            attention_mask=jnp.concatenate(
                [self.attention_mask, jnp.ones((*self.attention_mask.shape[:-1], extra), bool)], axis=-1
            ),
            positions=lengthened(self.positions, -1),
            encoder_attention_mask=self.encoder_attention_mask,
            encoder_positions=self.encoder_positions,
            position=self.position,
        )

    def check_fits(self, new: Dim) -> None:
        """
        Raises:
            ValueError: if there are no `new` tokens; or if they do not fit, where `position` is not traced.
        """
        if isinstance(new, int) and new == 0:
            raise ValueError("There are no new tokens to decode. Got 0: give at least one.")
        if not isinstance(new, int) or not isinstance(self.max_length, int):
            return  # symbolic, in `jax.export`
        taken = int(self.position) if is_known(self.position) else 0
        if taken + new > self.max_length:
            raise ValueError(
                f"The cache is full: it has {self.max_length} slots, of which {taken} are taken. Got {new} new tokens. "
                f"Make a longer one with `init_cache(..., max_length=...)`."
            )

    def mask_with(
        self, new: Dim, attention_mask: Bool[Array, "*batch mask_len"] | None
    ) -> Bool[Array, "*batch max_len"]:
        """The mask of all slots, after a mask of the `new` tokens; a mask of every slot replaces it.

        Raises:
            ValueError: if the mask has another length.
        """
        if attention_mask is None:
            return self.attention_mask
        if attention_mask.shape[-1] == self.max_length:
            return attention_mask
        if attention_mask.shape[-1] != new:
            raise ValueError(
                f"A decoder mask covers the {new} new tokens, or all {self.max_length} slots of the cache. Got "
                f"{attention_mask.shape[-1]}."
            )
        return jax.lax.dynamic_update_slice_in_dim(self.attention_mask, attention_mask, self.position, axis=-1)

    def positions_with(self, positions: Integer[Array, "*batch new"]) -> Integer[Array, "*batch max_len"]:
        """The positions of all slots, given those of the new tokens."""
        if positions.shape == self.positions.shape:
            return positions
        return jax.lax.dynamic_update_slice_in_dim(self.positions, positions, self.position, axis=-1)
