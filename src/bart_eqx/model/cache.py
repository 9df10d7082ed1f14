"""The decoder's memory, as a PyTree of arrays that the caller holds and hands on."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..typing import Array
from .checks import is_known


class KVCache(eqx.Module):
    """Keys and values of one attention, in the layout that `AbstractAttention.attend` reads."""

    keys: Float[Array, "*batch heads head_dim max_len"]
    values: Float[Array, "*batch heads max_len head_dim"]

    def write(
        self,
        keys: Float[Array, "*batch heads head_dim new"],
        values: Float[Array, "*batch heads new head_dim"],
        start: Integer[Array, ""],
    ) -> "KVCache":
        """The cache with `new` tokens at slot `start` and after. The caller sees to it that they fit."""
        if keys.shape == self.keys.shape:
            return KVCache(keys, values)  # what fills the cache is the cache: a whole sequence costs no copy
        return KVCache(written(self.keys, keys, start, axis=-1), written(self.values, values, start, axis=-2))


def written(
    x: Float[Array, "..."], new: Float[Array, "..."], start: Integer[Array, ""], *, axis: int
) -> Float[Array, "..."]:
    """`x` with `new` from `start` on. Narrow numbers as integers: XLA on CPU would widen all of `x` for it."""
    put = lambda x, new, start: jax.lax.dynamic_update_slice_in_dim(x, new, start, axis)
    if x.dtype.itemsize != 2:
        return put(x, new, start)
    bits = lambda y: jax.lax.bitcast_convert_type(y, jnp.uint16)
    put_bits = jax.custom_jvp(
        lambda x, new, start: jax.lax.bitcast_convert_type(put(bits(x), bits(new), start), x.dtype)
    )
    # Integers have no derivative: that of a write is the same write.
    put_bits.defjvp(lambda at, along: (put_bits(*at), put(along[0], along[1], at[2])))
    return put_bits(x, new, start)


class DecoderCache(eqx.Module):
    """All that a decoder needs of the past, and of the source: arrays only, the same structure at every step.

    A slot holds a token's keys and values in every layer. Slots below `position` are taken.
    """

    self_attn: tuple[KVCache, ...]
    """One per layer, written by `decode`."""
    cross_attn: tuple[KVCache, ...] | None
    """One per layer, computed once from the source by `init_cache`; `None` for a decoder without an encoder."""
    attention_mask: Bool[Array, "*batch max_len"]
    """Which slots may be attended to, once they are taken. False where a prefix was padded."""
    encoder_attention_mask: Bool[Array, "*batch src"] | None
    position: Integer[Array, ""]
    """The next free slot: one number for all layers and rows."""

    @property
    def max_length(self) -> int:
        return self.attention_mask.shape[-1]

    def with_room(self, max_length: int) -> "DecoderCache":
        """The same with `max_length` slots, which may be more than the model has positions: branches share theirs."""
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
            encoder_attention_mask=self.encoder_attention_mask,
            position=self.position,
        )

    def accept(self, new: int, attention_mask: Bool[Array, "*batch mask_len"] | None) -> Bool[Array, "*batch max_len"]:
        """The mask of all slots, now that `new` tokens come.

        `attention_mask` is of the new tokens, or of every slot; `None` leaves the mask as it is.

        Raises:
            ValueError: if the tokens do not fit, and it can be seen; or if the mask has another length.
        """
        taken = int(self.position) if is_known(self.position) else 0
        if taken + new > self.max_length:
            raise ValueError(
                f"The cache is full: it has {self.max_length} slots, of which {taken} are taken. Got {new} new tokens. "
                f"Make a longer one with `init_cache(..., max_length=...)`."
            )
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
