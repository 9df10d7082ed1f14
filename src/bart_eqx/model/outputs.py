"""What the models return, under the field names of transformers. A field that was not requested is `None`."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, Integer

from ..migration import TransformersOutput
from ..typing import Array


class BaseModelOutput(eqx.Module, TransformersOutput):
    """What `encode` returns, and what `init_cache`, `decode` and `generate` take as `encoder_outputs`.

    `BaseModelOutput(states)` wraps any states `[*batch, src, dim]`, for example those of another encoder.
    """

    last_hidden_state: Float[Array, "*batch src dim"] = eqx.field(converter=jnp.asarray)
    hidden_states: tuple[Float[Array, "*batch src dim"], ...] | None = None
    """The embedded input, then the output of every layer: one more than there are layers."""
    attentions: tuple[Float[Array, "*batch heads src src"] | None, ...] | None = None
    position_ids: Integer[Array, "*batch src"] | None = None
    """The positions that `encode` was given, for cross attention that reads them; `None` for 0, 1, 2, ..."""


class BaseModelOutputWithCrossAttentions(eqx.Module, TransformersOutput):
    """What a decoder returns. With a cache, `new` are the tokens of this call, and `kv` the slots of the cache."""

    last_hidden_state: Float[Array, "*batch new dim"]
    hidden_states: tuple[Float[Array, "*batch new dim"], ...] | None = None
    attentions: tuple[Float[Array, "*batch heads new kv"] | None, ...] | None = None
    cross_attentions: tuple[Float[Array, "*batch heads new src"] | None, ...] | None = None


class CausalLMOutputWithCrossAttentions(eqx.Module, TransformersOutput):
    """What a decoder with a language-modelling head returns."""

    logits: Float[Array, "*batch new vocab"]
    hidden_states: tuple[Float[Array, "*batch new dim"], ...] | None = None
    attentions: tuple[Float[Array, "*batch heads new kv"] | None, ...] | None = None
    cross_attentions: tuple[Float[Array, "*batch heads new src"] | None, ...] | None = None


class AbstractSeq2SeqOutput(eqx.Module, TransformersOutput):
    """The states that every encoder-decoder returns in addition to its result."""

    decoder_hidden_states: eqx.AbstractVar[tuple[Float[Array, "*batch tgt dim"], ...] | None]
    decoder_attentions: eqx.AbstractVar[tuple[Float[Array, "*batch heads tgt tgt"] | None, ...] | None]
    cross_attentions: eqx.AbstractVar[tuple[Float[Array, "*batch heads tgt src"] | None, ...] | None]
    encoder_last_hidden_state: eqx.AbstractVar[Float[Array, "*batch src dim"]]
    encoder_hidden_states: eqx.AbstractVar[tuple[Float[Array, "*batch src dim"], ...] | None]
    encoder_attentions: eqx.AbstractVar[tuple[Float[Array, "*batch encoder_heads src src"] | None, ...] | None]

    def states(self) -> dict[str, Any]:
        """These six by name, for the output of a head."""
        return dict(
            decoder_hidden_states=self.decoder_hidden_states,
            decoder_attentions=self.decoder_attentions,
            cross_attentions=self.cross_attentions,
            encoder_last_hidden_state=self.encoder_last_hidden_state,
            encoder_hidden_states=self.encoder_hidden_states,
            encoder_attentions=self.encoder_attentions,
        )


class Seq2SeqModelOutput(AbstractSeq2SeqOutput):
    """What `BartModel` returns."""

    last_hidden_state: Float[Array, "*batch tgt dim"]
    decoder_hidden_states: tuple[Float[Array, "*batch tgt dim"], ...] | None
    decoder_attentions: tuple[Float[Array, "*batch heads tgt tgt"] | None, ...] | None
    cross_attentions: tuple[Float[Array, "*batch heads tgt src"] | None, ...] | None
    encoder_last_hidden_state: Float[Array, "*batch src dim"]
    encoder_hidden_states: tuple[Float[Array, "*batch src dim"], ...] | None
    encoder_attentions: tuple[Float[Array, "*batch encoder_heads src src"] | None, ...] | None

    @classmethod
    def joining(cls, encoded: BaseModelOutput, decoded: BaseModelOutputWithCrossAttentions) -> "Seq2SeqModelOutput":
        """The output of an encoder and a decoder together."""
        return cls(
            last_hidden_state=decoded.last_hidden_state,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class Seq2SeqLMOutput(AbstractSeq2SeqOutput):
    """What `BartForConditionalGeneration` returns."""

    logits: Float[Array, "*batch tgt vocab"]
    decoder_hidden_states: tuple[Float[Array, "*batch tgt dim"], ...] | None
    decoder_attentions: tuple[Float[Array, "*batch heads tgt tgt"] | None, ...] | None
    cross_attentions: tuple[Float[Array, "*batch heads tgt src"] | None, ...] | None
    encoder_last_hidden_state: Float[Array, "*batch src dim"]
    encoder_hidden_states: tuple[Float[Array, "*batch src dim"], ...] | None
    encoder_attentions: tuple[Float[Array, "*batch encoder_heads src src"] | None, ...] | None


class Seq2SeqSequenceClassifierOutput(AbstractSeq2SeqOutput):
    """What `BartForSequenceClassification` returns."""

    logits: Float[Array, "*batch labels"]
    decoder_hidden_states: tuple[Float[Array, "*batch tgt dim"], ...] | None
    decoder_attentions: tuple[Float[Array, "*batch heads tgt tgt"] | None, ...] | None
    cross_attentions: tuple[Float[Array, "*batch heads tgt src"] | None, ...] | None
    encoder_last_hidden_state: Float[Array, "*batch src dim"]
    encoder_hidden_states: tuple[Float[Array, "*batch src dim"], ...] | None
    encoder_attentions: tuple[Float[Array, "*batch encoder_heads src src"] | None, ...] | None


class Seq2SeqQuestionAnsweringModelOutput(AbstractSeq2SeqOutput):
    """What `BartForQuestionAnswering` returns."""

    start_logits: Float[Array, "*batch tgt"]
    end_logits: Float[Array, "*batch tgt"]
    decoder_hidden_states: tuple[Float[Array, "*batch tgt dim"], ...] | None
    decoder_attentions: tuple[Float[Array, "*batch heads tgt tgt"] | None, ...] | None
    cross_attentions: tuple[Float[Array, "*batch heads tgt src"] | None, ...] | None
    encoder_last_hidden_state: Float[Array, "*batch src dim"]
    encoder_hidden_states: tuple[Float[Array, "*batch src dim"], ...] | None
    encoder_attentions: tuple[Float[Array, "*batch encoder_heads src src"] | None, ...] | None
