"""The losses of BART's tasks, in the form of a train step: `(sum, count) = loss(model, batch, key)`.

`batch` is a dict of arrays under transformers' names. Beside what each loss names, it may hold `attention_mask`, and
for an encoder-decoder `decoder_input_ids` and `decoder_attention_mask`. `key` is for dropout: `None` in inference mode.
Arguments after it are set by `functools.partial`.

The gradient of a step is that of all sums, divided once by all counts. A row of which `attention_mask` shows no token,
which only fills a batch up, does not count.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..config import BartConfig
from ..model.causal_lm import BartForCausalLM
from ..model.checks import check_token_ids
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.masks import shift_tokens_right
from ..model.question_answering import BartForQuestionAnswering
from ..model.sequence_classification import BartForSequenceClassification
from ..model.signature import described, one_sentence_errors
from ..typing import Array, HostArray
from .losses import IGNORED, TokenLoss, negative_log_likelihood, token_loss_sum, wide


Batch = Mapping[str, HostArray]
Sum = Float[Array, ""]
Count = Integer[Array, ""]
INPUTS = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
CAUSAL_INPUTS = ("input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask")


@one_sentence_errors
def seq2seq_loss(
    model: BartForConditionalGeneration,
    batch: Batch,
    key: PRNGKeyArray | None = None,
    *,
    token_loss: TokenLoss = negative_log_likelihood,
    rows: int = 512,
) -> tuple[Sum, Count]:
    """Of summaries, translations, denoising: the loss of each token of the target.

    Args:
        model: The model.
        batch: `input_ids` `[*batch, src]` and `labels` `[*batch, tgt]`. A label does not count where it is -100, or
            padding: `pad_token_id`, or zero in `decoder_attention_mask`. (transformers' PyTorch counts `pad_token_id`.)
            `decoder_input_ids` are the labels, shifted right, by default.
        key: For dropout.
        token_loss: By default the cross entropy. `functools.partial(fairseq_label_smoothing, epsilon=0.1)` smooths it.
        rows: As in [`token_loss_sum`][bart_eqx.training.token_loss_sum].

    Raises:
        ValueError: if the batch lacks an array, or has one of an unknown name.
    """
    inputs, labels = teacher_forcing(model.config, batch)
    states = model.model(**inputs, key=key).last_hidden_state
    return token_loss_sum(token_loss, model.lm_logits, states, labels, rows=rows)


@one_sentence_errors
def causal_lm_loss(
    model: BartForCausalLM,
    batch: Batch,
    key: PRNGKeyArray | None = None,
    *,
    token_loss: TokenLoss = negative_log_likelihood,
    rows: int = 512,
) -> tuple[Sum, Count]:
    """Of a language model: the loss of each token, given those before it.

    Args:
        model: The model.
        batch: `input_ids` and `labels` `[*batch, tgt]`, which are the same tokens: labels are shifted here, as in
            transformers' `run_clm_flax.py`. (Its PyTorch `BartForCausalLM` expects labels that are shifted.) A label
            does not count where it is -100, or padding: `pad_token_id`, or zero in `attention_mask` `[*batch, tgt]`.
            Nor does the first token of a text, which has none before it. `encoder_hidden_states` `[*batch, src, dim]`
            and `encoder_attention_mask` `[*batch, src]` are for cross attention.
        key: For dropout.
        token_loss: By default the cross entropy. `functools.partial(fairseq_label_smoothing, epsilon=0.1)` smooths it.
        rows: As in [`token_loss_sum`][bart_eqx.training.token_loss_sum].

    Raises:
        ValueError: if the batch lacks an array, has one of an unknown name, or one of another shape or dtype.
    """
    inputs = _inputs(batch, ("labels",), CAUSAL_INPUTS)
    inputs["input_ids"] = check_token_ids("input_ids", inputs["input_ids"], model.config.vocab_size)
    shape = inputs["input_ids"].shape
    labels = _without_padding(model.config, _integers("labels", batch["labels"], shape))[..., 1:]
    if (mask := inputs.get("attention_mask")) is not None:
        if mask.shape != shape:
            raise ValueError(f"`attention_mask` must be {list(shape)}. Got {described(mask)}.")
        tokens = jnp.asarray(mask).astype(bool)
        labels = jnp.where(tokens[..., 1:] & tokens[..., :-1], labels, IGNORED)
    # Nothing follows the last token. With a label for it, states keep their shape, and so their place on devices.
    labels = jnp.concatenate([labels, jnp.full_like(labels, IGNORED, shape=(*shape[:-1], 1))], axis=-1)
    states = model.model(**inputs, key=key)[0].last_hidden_state
    return token_loss_sum(token_loss, model.lm_logits, states, labels, rows=rows)


@one_sentence_errors
def single_label_loss(
    model: BartForSequenceClassification, batch: Batch, key: PRNGKeyArray | None = None
) -> tuple[Sum, Count]:
    """Classification into one of `num_labels`: `problem_type="single_label_classification"` of transformers.

    Args:
        model: The model.
        batch: `input_ids` `[*batch, src]`, and `labels` `[*batch]` of integers. -100 does not count. Another one that
            is not a class makes the sum NaN.
        key: For dropout.

    Raises:
        ValueError: if the batch lacks an array, has one of an unknown name, or one of another shape or dtype.
    """
    logits, rows = _logits(model, batch, key)
    labels = _integers("labels", batch["labels"], rows.shape)
    return _sum(negative_log_likelihood(logits, labels), rows & (labels != IGNORED))


@one_sentence_errors
def multi_label_loss(
    model: BartForSequenceClassification, batch: Batch, key: PRNGKeyArray | None = None
) -> tuple[Sum, Count]:
    """Classification where each label holds or not: `problem_type="multi_label_classification"` of transformers.

    Args:
        model: The model.
        batch: `input_ids` `[*batch, src]`, and `labels` `[*batch, labels]` of floats, 1 where the label holds and 0
            where it does not. Each is a binary cross entropy, and counts as one.
        key: For dropout.

    Raises:
        ValueError: if the batch lacks an array, has one of an unknown name, or one of another shape or dtype.
    """
    logits, rows = _logits(model, batch, key)
    labels = _floats("labels", batch["labels"], logits)
    return _sum(jax.nn.softplus(logits) - logits * labels, rows[..., None])


@one_sentence_errors
def regression_loss(
    model: BartForSequenceClassification, batch: Batch, key: PRNGKeyArray | None = None
) -> tuple[Sum, Count]:
    """The squared error of `num_labels` numbers for each text: `problem_type="regression"` of transformers.

    Args:
        model: The model.
        batch: `input_ids` `[*batch, src]`, and `labels` `[*batch, labels]` of floats; or `[*batch]` where
            `num_labels` is 1. Each number counts as one.
        key: For dropout.

    Raises:
        ValueError: if the batch lacks an array, has one of an unknown name, or one of another shape or dtype.
    """
    logits, rows = _logits(model, batch, key)
    labels = batch["labels"]
    if logits.shape[-1] == 1 and labels.shape == rows.shape:
        labels = labels[..., None]
    labels = _floats("labels", labels, logits)
    return _sum(jnp.square(logits - labels), rows[..., None])


@one_sentence_errors
def question_answering_loss(
    model: BartForQuestionAnswering, batch: Batch, key: PRNGKeyArray | None = None
) -> tuple[Sum, Count]:
    """Where an answer starts and where it ends, among the tokens of the text.

    transformers averages starts and ends apart, and then both. That is this loss where as many starts as ends count.

    Args:
        model: The model.
        batch: `input_ids` `[*batch, src]`, and `start_positions` and `end_positions` `[*batch]` of integers. A position
            beyond the text, which was cut off, does not count, nor does -100. Another negative one makes the sum NaN;
            transformers takes it for 0.
        key: For dropout.

    Raises:
        ValueError: if the batch lacks an array, has one of an unknown name, or one of another shape or dtype.
    """
    inputs = _inputs(batch, ("start_positions", "end_positions"))
    out = model(**inputs, key=key)
    rows = _rows_with_tokens(inputs)
    total, count = jnp.zeros((), wide(out.start_logits).dtype), jnp.zeros((), jnp.int32)
    for name, logits in (("start_positions", out.start_logits), ("end_positions", out.end_logits)):
        positions = _integers(name, batch[name], logits.shape[:-1])
        counts = rows & (positions < logits.shape[-1]) & (positions != IGNORED)
        part, part_count = _sum(negative_log_likelihood(wide(logits), positions), counts)
        total, count = total + part, count + part_count
    return total, count


def teacher_forcing(config: BartConfig, batch: Batch) -> tuple[dict[str, Any], Integer[Array, "*batch tgt"]]:
    """The arguments of a model for a batch, and its labels, -100 where none counts."""
    inputs = _inputs(batch, ("labels",))
    labels = _integers("labels", batch["labels"], batch["labels"].shape)
    inputs.setdefault(
        "decoder_input_ids", shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)
    )
    labels = _without_padding(config, labels)
    if (mask := inputs.get("decoder_attention_mask")) is not None:
        labels = jnp.where(jnp.asarray(mask).astype(bool), labels, IGNORED)
    return inputs, labels


def _without_padding(config: BartConfig, labels: Integer[Array, "*shape"]) -> Integer[Array, "*shape"]:
    if config.pad_token_id == config.eos_token_id:  # the end is learned
        return labels
    return jnp.where(labels == config.pad_token_id, IGNORED, labels)


def _inputs(batch: Batch, targets: tuple[str, ...], arguments: tuple[str, ...] = INPUTS) -> dict[str, Any]:
    """The model's arguments in a batch, which has `targets` beside them."""
    required, known = {"input_ids", *targets}, {*arguments, *targets}
    if missing := sorted(required - batch.keys()):
        raise ValueError(f"`batch` must have {', '.join(missing)}. Got {', '.join(batch) or 'nothing'}.")
    if unknown := sorted(batch.keys() - known):
        raise ValueError(
            f"`batch` may have {', '.join((*arguments, *targets))}, and each changes the loss. Got "
            f"{', '.join(unknown)}: remove what is for other purposes."
        )
    return {name: batch[name] for name in arguments if name in batch}


def _logits(
    model: BartForSequenceClassification, batch: Batch, key: PRNGKeyArray | None
) -> tuple[Float[Array, "*batch labels"], Bool[Array, "*batch"]]:
    """The logits of each row, and whether it has tokens."""
    inputs = _inputs(batch, ("labels",))
    rows = _rows_with_tokens(inputs)
    if (mask := inputs.get("attention_mask")) is not None:
        # An empty row would have no `</s>`, and so NaN as logits and gradients: it gets one.
        added = ~rows[..., None] & (jnp.arange(mask.shape[-1]) == 0)
        inputs["input_ids"] = jnp.where(added, model.config.eos_token_id, inputs["input_ids"])
        inputs["attention_mask"] = jnp.asarray(mask).astype(bool) | added
    return wide(model(**inputs, key=key).logits), rows


def _rows_with_tokens(inputs: Mapping[str, Any]) -> Bool[Array, "*batch"]:
    mask = inputs.get("attention_mask")
    if mask is None:
        return jnp.ones(inputs["input_ids"].shape[:-1], bool)
    return jnp.any(jnp.asarray(mask).astype(bool), axis=-1)


def _integers(name: str, array: HostArray, shape: tuple[int, ...]) -> Integer[Array, "*shape"]:
    if array.shape != shape or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"`{name}` must be integers {list(shape)}. Got {described(array)}.")
    return jnp.asarray(array, jnp.int32)


def _floats(name: str, array: HostArray, logits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    if array.shape != logits.shape or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be floats {list(logits.shape)}. Got {described(array)}.")
    return jnp.asarray(array, logits.dtype)


def _sum(losses: Float[Array, "*shape"], counts: Bool[Array, "*#shape"]) -> tuple[Sum, Count]:
    counts = jnp.broadcast_to(counts, losses.shape)
    return jnp.sum(jnp.where(counts, losses, 0)), jnp.sum(counts)
