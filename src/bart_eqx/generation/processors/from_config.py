"""The processors that a `GenerationConfig` turns on, in the order in which the reference applies them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer

from ...generation_config import GenerationConfig
from ...typing import Array
from .sampling import EpsilonCutoff, EtaCutoff, MinP, Temperature, TopH, TopK, TopP, Typical
from .scores import (
    EncoderNoRepeatNGram,
    EncoderRepetitionPenalty,
    ExponentialDecayLengthPenalty,
    ForcedBos,
    ForcedEos,
    LogitsProcessor,
    MinLength,
    NoRepeatNGram,
    Normalise,
    RemoveInvalid,
    RepetitionPenalty,
    SequenceBias,
    Suppress,
    float_setting,
    int_setting,
)


def number(config: GenerationConfig, traced: Mapping[str, Float[Array, ""]], name: str) -> Float[Array, ""]:
    """A setting as an array: the caller's traced one, or that of `config`."""
    return traced[name] if name in traced else float_setting(getattr(config, name))


def pytorch_processors(
    config: GenerationConfig,
    traced: Mapping[str, Float[Array, ""]],
    *,
    prompt_length: int,
    max_length: int,
    source: Integer[Array, "batch src"] | None,
    trie: LogitsProcessor | None,
    custom: Sequence[LogitsProcessor],
) -> tuple[LogitsProcessor, ...]:
    """As `GenerationMixin._get_logits_processor` in transformers 5.23.

    Args:
        config: The settings.
        traced: The traced values, for which `config` has placeholders.
        prompt_length: Slots of the prompt.
        max_length: Slots of a whole sequence, from `max_length` or `max_new_tokens`.
        source: The source's tokens, -1 at padding.
        trie: The processor for `prefix_allowed_tokens`.
        custom: The caller's processors, which run after those of the settings and before those of sampling.
    """
    c, eos = config, int_setting(config.eos_token_ids)
    processors: list[LogitsProcessor] = []
    if c.sequence_bias is not None:
        processors += _biases(c.sequence_biases)
    if c.encoder_repetition_penalty != 1:
        processors.append(EncoderRepetitionPenalty(number(c, traced, "encoder_repetition_penalty"), _needed(source, c)))
    if c.repetition_penalty != 1:
        processors.append(RepetitionPenalty(number(c, traced, "repetition_penalty")))
    if c.no_repeat_ngram_size > 0:
        processors.append(NoRepeatNGram(c.no_repeat_ngram_size))
    if c.encoder_no_repeat_ngram_size > 0:
        processors.append(EncoderNoRepeatNGram(_needed(source, c), c.encoder_no_repeat_ngram_size))
    if c.bad_words_ids is not None:  # as in the reference, EOS cannot be a bad word
        words = dict.fromkeys(tuple(word) for word in c.bad_words_ids)
        processors += _biases({w: -math.inf for w in words if not (len(w) == 1 and w[0] in c.eos_token_ids)})
    if c.min_length > 0:
        processors.append(MinLength(int_setting(c.min_length), eos))
    if c.min_new_tokens is not None and c.min_new_tokens > 0:
        processors.append(MinLength(int_setting(prompt_length + c.min_new_tokens), eos))
    if trie is not None:
        processors.append(trie)
    if c.forced_bos_token_id is not None:
        processors.append(ForcedBos(int_setting(c.forced_bos_token_id)))
    if c.forced_eos_token_id is not None:
        processors.append(ForcedEos(int_setting(max_length), int_setting(np.atleast_1d(c.forced_eos_token_id))))
    if c.remove_invalid_values:
        processors.append(RemoveInvalid())
    if c.exponential_decay_length_penalty is not None:
        start, factor = c.exponential_decay_length_penalty
        processors.append(
            ExponentialDecayLengthPenalty(int_setting(int(start) + prompt_length), float_setting(factor), eos)
        )
    processors += _suppressions(c, prompt_length)
    processors += custom
    if c.do_sample:
        processors += sampling_processors(c, traced)
    if c.renormalize_logits:
        processors.append(Normalise())
    return tuple(processors)


def flax_processors(
    config: GenerationConfig,
    traced: Mapping[str, Float[Array, ""]],
    *,
    prompt_length: int,
    max_length: int,
    custom: Sequence[LogitsProcessor],
) -> tuple[LogitsProcessor, ...]:
    """As `FlaxGenerationMixin` in transformers 4.57, which masks EOS out while `length <= min_length`."""
    c = config
    processors: list[LogitsProcessor] = [MinLength(int_setting(c.min_length + 1), int_setting(c.eos_token_ids))]
    if c.forced_bos_token_id is not None:
        processors.append(ForcedBos(int_setting(c.forced_bos_token_id)))
    if c.forced_eos_token_id is not None:
        processors.append(ForcedEos(int_setting(max_length), int_setting(np.atleast_1d(c.forced_eos_token_id))))
    processors += _suppressions(c, prompt_length)
    if c.no_repeat_ngram_size > 0:
        processors.append(NoRepeatNGram(c.no_repeat_ngram_size))
    processors += custom
    if c.do_sample:
        processors += sampling_processors(c, traced)
    return tuple(processors)


def sampling_processors(config: GenerationConfig, traced: Mapping[str, Float[Array, ""]]) -> list[LogitsProcessor]:
    c = config
    keep = 1 if c.num_beams == 1 else len(c.eos_token_ids) + 1
    processors: list[LogitsProcessor] = []
    if c.temperature != 1:
        processors.append(Temperature(number(c, traced, "temperature")))
    if c.top_h is not None:
        processors.append(TopH(number(c, traced, "top_h")))
    if c.top_k:
        processors.append(TopK(c.top_k, keep))
    if c.top_p < 1:
        processors.append(TopP(number(c, traced, "top_p"), keep))
    if c.min_p is not None:
        processors.append(MinP(number(c, traced, "min_p"), keep))
    if c.typical_p < 1:
        processors.append(Typical(number(c, traced, "typical_p"), keep))
    if c.epsilon_cutoff > 0:
        processors.append(EpsilonCutoff(number(c, traced, "epsilon_cutoff"), keep))
    if c.eta_cutoff > 0:
        processors.append(EtaCutoff(number(c, traced, "eta_cutoff"), keep))
    return processors


def _suppressions(config: GenerationConfig, prompt_length: int) -> list[LogitsProcessor]:
    processors: list[LogitsProcessor] = []
    if config.suppress_tokens is not None:
        processors.append(Suppress(int_setting(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        forced_first = prompt_length == 1 and config.forced_bos_token_id is not None
        processors.append(
            Suppress(int_setting(config.begin_suppress_tokens), int_setting(prompt_length + forced_first))
        )
    return processors


def _biases(biases: Mapping[tuple[int, ...], float]) -> list[LogitsProcessor]:
    """One processor for each length of sequence."""
    processors: list[LogitsProcessor] = []
    for size in sorted({len(sequence) for sequence in biases}):
        group = [(sequence, bias) for sequence, bias in biases.items() if len(sequence) == size]
        processors.append(
            SequenceBias(
                prefixes=int_setting([sequence[:-1] for sequence, _ in group]),
                last=int_setting([sequence[-1] for sequence, _ in group]),
                bias=float_setting([bias for _, bias in group]),
            )
        )
    return processors


def _needed(source: Integer[Array, "batch src"] | None, config: GenerationConfig) -> Integer[Array, "batch 1 src"]:
    """The source's tokens, the same for all beams."""
    if source is None:
        raise ValueError(
            f"encoder_repetition_penalty={config.encoder_repetition_penalty} and encoder_no_repeat_ngram_size="
            f"{config.encoder_no_repeat_ngram_size} read the source's tokens. Give `input_ids` as well as "
            f"`encoder_outputs`, which has no tokens."
        )
    return source[:, None]
