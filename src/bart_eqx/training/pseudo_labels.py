"""Labels that a teacher writes: sequence-level distillation (arXiv:1606.07947)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Integer

from ..generation.generate import generate
from ..model.language_model import AbstractSeq2SeqLM
from ..model.signature import one_sentence_errors
from ..typing import Array, HostArray, Mask
from .losses import IGNORED


@one_sentence_errors
def pseudo_labels(
    model: AbstractSeq2SeqLM,
    input_ids: Integer[HostArray, "*batch src"],
    attention_mask: Mask[HostArray, "*batch src"] | None = None,
    **generation_options: Any,
) -> Integer[Array, "*rows tgt"]:
    """What the model generates, as `labels` for a student: without the start token, and -100 after the end.

    Args:
        model: The teacher.
        input_ids: Source token ids.
        attention_mask: Zero, or False, at source padding.
        generation_options: Those of [`generate`][bart_eqx.generate]: `num_beams`, `max_length`, ...

    Returns:
        `[*batch, max_length - 1]`; with `num_return_sequences`, as many rows for each source. A sequence of which
        `generate` says that it is not `finite` has -100 only.

    Raises:
        ValueError: as `generate` does.
    """
    result = generate(model, input_ids, attention_mask, **generation_options)
    labels = result.sequences[..., 1:]
    written = jnp.arange(labels.shape[-1]) < (result.lengths[..., None] - 1)
    return jnp.where(written & result.finite[..., None], labels, IGNORED)
