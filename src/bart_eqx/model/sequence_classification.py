"""`BartForSequenceClassification`: a class for a text, or for a pair of texts."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from ..config import BartConfig
from ..typing import Array, HostArray, Mask
from .bart import BartModel
from .checks import is_known
from .head import AbstractBartHead
from .layers import AbstractLinear, Linear
from .outputs import Seq2SeqSequenceClassifierOutput
from .signature import one_sentence_errors


class BartClassificationHead(eqx.Module):
    """Two linear maps with tanh between them."""

    dense: AbstractLinear
    out_proj: AbstractLinear
    dropout: eqx.nn.Dropout

    def __init__(
        self,
        dim: int,
        num_labels: int,
        *,
        dropout: float,
        init_std: float,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        """
        Args:
            dim: Width of the model.
            num_labels: The number of classes.
            dropout: The rate before each map, in training.
            init_std: Standard deviation of the initial weights.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        dense_key, out_key = jr.split(key)
        self.dense = Linear(dim, dim, init_std=init_std, dtype=dtype, key=dense_key)
        self.out_proj = Linear(dim, num_labels, init_std=init_std, dtype=dtype, key=out_key)
        self.dropout = eqx.nn.Dropout(dropout, inference=True)

    def __call__(
        self, x: Float[Array, "*batch dim"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*batch labels"]:
        in_key, out_key = (None, None) if key is None else jr.split(key)
        x = jnp.tanh(self.dense(self.dropout(x, key=in_key)))
        return self.out_proj(self.dropout(x, key=out_key))


class BartForSequenceClassification(AbstractBartHead):
    """BART with a classifier on the decoder's state at the last `</s>` of the source, as in transformers' PyTorch.

    The Flax reference takes the last one too, but under `jax.jit` it sums the states of all of them, and a pair of
    texts has three. Here it is always the last one that is not masked; both references count masked ones too, as where
    a tokenizer pads with `</s>`.
    """

    model: BartModel
    classification_head: BartClassificationHead

    @one_sentence_errors
    def __init__(self, config: BartConfig, *, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        """
        Args:
            config: The sizes of the model, `num_labels` among them.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        model_key, head_key = jr.split(key)
        self.model = BartModel(config, dtype=dtype, key=model_key)
        self.classification_head = BartClassificationHead(
            config.d_model,
            config.num_labels,
            dropout=config.classifier_dropout,
            init_std=config.init_std,
            dtype=dtype,
            key=head_key,
        )

    @property
    def decode(self):
        """[`BartModel.decode`][bart_eqx.BartModel.decode] of `model`: states, not classes."""
        return self.model.decode

    def _last_eos(
        self, input_ids: Integer[HostArray, "*batch src"], attention_mask: Mask[HostArray, "*batch src"] | None
    ) -> Integer[Array, "*batch"]:
        """The position of the last `</s>` that is not masked: many tokenizers pad with `</s>`. Past the end, and so
        NaN, where there is none."""
        eos, length = self.config.eos_token_id, input_ids.shape[-1]
        if is_known(input_ids) and (attention_mask is None or is_known(attention_mask)):
            shown = True if attention_mask is None else np.asarray(attention_mask).astype(bool)
            if not ((np.asarray(input_ids) == eos) & shown).any(axis=-1).all():
                raise ValueError(
                    f"Each of `input_ids` must contain `</s>`, eos_token_id={eos}, at a token that `attention_mask` "
                    "shows: the class is read there. The tokenizer adds it."
                )
        is_eos = jnp.asarray(input_ids) == eos
        if attention_mask is not None:
            is_eos = is_eos & jnp.asarray(attention_mask).astype(bool)
        last = jnp.max(jnp.where(is_eos, jnp.arange(length), -1), axis=-1)
        return jnp.where(last < 0, length, last)

    @one_sentence_errors
    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch src"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        decoder_input_ids: Integer[HostArray, "*batch src"] | None = None,
        decoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        decoder_position_ids: Integer[HostArray, "*#batch src"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Seq2SeqSequenceClassifierOutput:
        """As [`BartModel.__call__`][bart_eqx.BartModel.__call__], with `logits` `[*batch, labels]`.

        Decoder inputs, if given, are as long as the source: the class is read where the source ends.

        Raises:
            ValueError: as `BartModel` does, and if a text has no `</s>` that is not masked. Where that is traced, its
                logits are NaN.
        """
        last_eos = self._last_eos(input_ids, attention_mask)  # refused here, before the work
        model_key, head_key = (None, None) if key is None else jr.split(key)
        out = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            position_ids,
            decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=model_key,
        )
        state = jnp.take_along_axis(
            out.last_hidden_state, last_eos[..., None, None], axis=-2, mode="fill", fill_value=jnp.nan
        )[..., 0, :]
        return Seq2SeqSequenceClassifierOutput(logits=self.classification_head(state, key=head_key), **out.states())
