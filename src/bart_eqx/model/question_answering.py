"""`BartForQuestionAnswering`: where in the text an answer starts and ends."""

import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Integer, PRNGKeyArray

from ..config import BartConfig
from ..typing import HostArray, Mask
from .bart import BartModel
from .head import AbstractBartHead
from .layers import AbstractLinear, Linear
from .outputs import Seq2SeqQuestionAnsweringModelOutput
from .signature import one_sentence_errors


class BartForQuestionAnswering(AbstractBartHead):
    """BART with two logits for each token: to be the first, and to be the last, of the answer."""

    model: BartModel
    qa_outputs: AbstractLinear

    @one_sentence_errors
    def __init__(self, config: BartConfig, *, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        """
        Args:
            config: The sizes of the model.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        model_key, head_key = jr.split(key)
        self.model = BartModel(config, dtype=dtype, key=model_key)
        self.qa_outputs = Linear(config.d_model, 2, init_std=config.init_std, dtype=dtype, key=head_key)

    @property
    def decode(self):
        """[`BartModel.decode`][bart_eqx.BartModel.decode] of `model`: states, not spans."""
        return self.model.decode

    @one_sentence_errors
    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch src"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        decoder_input_ids: Integer[HostArray, "*batch tgt"] | None = None,
        decoder_attention_mask: Mask[HostArray, "*batch tgt"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        decoder_position_ids: Integer[HostArray, "*#batch tgt"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Seq2SeqQuestionAnsweringModelOutput:
        """As [`BartModel.__call__`][bart_eqx.BartModel.__call__], with `start_logits`, `end_logits` `[*batch, tgt]`."""
        out = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            position_ids,
            decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        logits = self.qa_outputs(out.last_hidden_state)
        return Seq2SeqQuestionAnsweringModelOutput(
            start_logits=logits[..., 0], end_logits=logits[..., 1], **out.states()
        )
