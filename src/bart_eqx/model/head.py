"""What the heads of BART share: their encoder-decoder's methods, and the language-modelling head."""

import equinox as eqx
from jax.typing import DTypeLike
from jaxtyping import Integer, PRNGKeyArray

from ..config import BartConfig
from ..migration import TransformersModel
from ..typing import Dim, HostArray, Mask
from .bart import BartModel
from .cache import DecoderCache
from .layers import Linear
from .outputs import BaseModelOutput
from .signature import one_sentence_errors


class AbstractBartHead(eqx.Module, TransformersModel):
    """A `BartModel` with the parameters of a task."""

    model: eqx.AbstractVar[BartModel]

    @property
    def config(self) -> BartConfig:
        return self.model.config

    @one_sentence_errors
    def encode(
        self,
        input_ids: Integer[HostArray, "*batch src"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> BaseModelOutput:
        """[`BartModel.encode`][bart_eqx.BartModel.encode] of `model`."""
        return self.model.encode(
            input_ids,
            attention_mask,
            position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )

    @one_sentence_errors
    def init_cache(
        self,
        encoder_outputs: BaseModelOutput,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        max_length: Dim,
    ) -> DecoderCache:
        """[`BartModel.init_cache`][bart_eqx.BartModel.init_cache] of `model`."""
        return self.model.init_cache(encoder_outputs, encoder_attention_mask, max_length=max_length)


def init_lm_head(config: BartConfig, *, dtype: DTypeLike, key: PRNGKeyArray) -> Linear | None:
    """The language-modelling head; `None` where it is tied to the token embeddings."""
    if config.tie_word_embeddings:
        return None
    return Linear(config.d_model, config.vocab_size, use_bias=False, init_std=config.init_std, dtype=dtype, key=key)
