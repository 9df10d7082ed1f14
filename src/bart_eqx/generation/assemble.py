"""From a `GenerationConfig` to the processors that it asks for, in the order in which the reference applies them."""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Integer

from ..generation_config import GenerationConfig
from ..typing import Array
from .filters import EpsilonCutoff, EtaCutoff, MinP, Temperature, TopH, TopK, TopP, Typical
from .operands import floats, ids, integers
from .processors import (
    DiversityPenalty,
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
)


def pytorch_processors(
    config: GenerationConfig,
    *,
    prompt_length: int,
    max_length: int,
    source: Integer[Array, "batch src"] | None,
    trie: LogitsProcessor | None,
    custom: Sequence[LogitsProcessor],
) -> tuple[LogitsProcessor, ...]:
    """As `GenerationMixin._get_logits_processor` in transformers 5.23; the diversity penalty as in 4.55.

    `max_length` is what `max_length` or `max_new_tokens` come to.
    """
    c, eos = config, ids(config.eos_token_ids)
    found: list[LogitsProcessor] = []
    if c.sequence_bias is not None:
        found += sequence_biases(c.sequence_biases)
    if c.num_beam_groups > 1:
        found.append(DiversityPenalty(floats(c.diversity_penalty)))
    if c.encoder_repetition_penalty != 1:
        found.append(EncoderRepetitionPenalty(floats(c.encoder_repetition_penalty), needed(source, c)))
    if c.repetition_penalty != 1:
        found.append(RepetitionPenalty(floats(c.repetition_penalty)))
    if c.no_repeat_ngram_size > 0:
        found.append(NoRepeatNGram(c.no_repeat_ngram_size))
    if c.encoder_no_repeat_ngram_size > 0:
        found.append(EncoderNoRepeatNGram(needed(source, c), c.encoder_no_repeat_ngram_size))
    if c.bad_words_ids is not None:  # the end of a sequence is no bad word
        words = dict.fromkeys(tuple(word) for word in c.bad_words_ids)
        found += sequence_biases({w: -math.inf for w in words if not (len(w) == 1 and w[0] in c.eos_token_ids)})
    if c.min_length > 0:
        found.append(MinLength(integers(c.min_length), eos))
    if c.min_new_tokens is not None and c.min_new_tokens > 0:
        found.append(MinLength(integers(prompt_length + c.min_new_tokens), eos))
    if trie is not None:
        found.append(trie)
    if c.forced_bos_token_id is not None:
        found.append(ForcedBos(integers(c.forced_bos_token_id)))
    if c.forced_eos_token_id is not None:
        found.append(ForcedEos(integers(max_length), ids(c.forced_eos_token_id)))
    if c.remove_invalid_values:
        found.append(RemoveInvalid())
    if c.exponential_decay_length_penalty is not None:
        start, factor = c.exponential_decay_length_penalty
        found.append(ExponentialDecayLengthPenalty(integers(int(start) + prompt_length), floats(factor), eos))
    found += suppressions(c, prompt_length)
    found += custom
    if c.do_sample:
        found += filters(c)
    if c.renormalize_logits:
        found.append(Normalise())
    return tuple(found)


def flax_processors(
    config: GenerationConfig, *, prompt_length: int, max_length: int, custom: Sequence[LogitsProcessor]
) -> tuple[LogitsProcessor, ...]:
    """As `FlaxGenerationMixin` in transformers 4.57, where the end is barred up to and with `min_length`."""
    c = config
    found: list[LogitsProcessor] = [MinLength(integers(c.min_length + 1), ids(c.eos_token_ids))]
    if c.forced_bos_token_id is not None:
        found.append(ForcedBos(integers(c.forced_bos_token_id)))
    if c.forced_eos_token_id is not None:
        found.append(ForcedEos(integers(max_length), ids(c.forced_eos_token_id)))
    found += suppressions(c, prompt_length)
    if c.no_repeat_ngram_size > 0:
        found.append(NoRepeatNGram(c.no_repeat_ngram_size))
    found += custom
    if c.do_sample:
        found += filters(c)
    return tuple(found)


def filters(config: GenerationConfig) -> list[LogitsProcessor]:
    c = config
    keep = 1 if c.num_beams == 1 else len(c.eos_token_ids) + 1
    found: list[LogitsProcessor] = []
    if c.temperature != 1:
        found.append(Temperature(floats(c.temperature)))
    if c.top_h is not None:
        found.append(TopH(floats(c.top_h)))
    if c.top_k:
        found.append(TopK(c.top_k, keep))
    if c.top_p < 1:
        found.append(TopP(floats(c.top_p), keep))
    if c.min_p is not None:
        found.append(MinP(floats(c.min_p), keep))
    if c.typical_p < 1:
        found.append(Typical(floats(c.typical_p), keep))
    if c.epsilon_cutoff > 0:
        found.append(EpsilonCutoff(floats(c.epsilon_cutoff), keep))
    if c.eta_cutoff > 0:
        found.append(EtaCutoff(floats(c.eta_cutoff), keep))
    return found


def suppressions(config: GenerationConfig, prompt_length: int) -> list[LogitsProcessor]:
    found: list[LogitsProcessor] = []
    if config.suppress_tokens is not None:
        found.append(Suppress(ids(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        forced_first = prompt_length == 1 and config.forced_bos_token_id is not None
        found.append(Suppress(ids(config.begin_suppress_tokens), integers(prompt_length + forced_first)))
    return found


def sequence_biases(biases: Mapping[tuple[int, ...], float]) -> list[LogitsProcessor]:
    """One processor for each length that occurs."""
    found: list[LogitsProcessor] = []
    for size in sorted({len(sequence) for sequence in biases}):
        group = [(sequence, bias) for sequence, bias in biases.items() if len(sequence) == size]
        found.append(
            SequenceBias(
                prefixes=integers([sequence[:-1] for sequence, _ in group]),
                last=integers([sequence[-1] for sequence, _ in group]),
                bias=floats([bias for _, bias in group]),
            )
        )
    return found


def needed(source: Integer[Array, "batch src"] | None, config: GenerationConfig) -> Integer[Array, "batch 1 src"]:
    """The source's tokens, for all beams."""
    if source is None:
        raise ValueError(
            f"encoder_repetition_penalty={config.encoder_repetition_penalty} and encoder_no_repeat_ngram_size="
            f"{config.encoder_no_repeat_ngram_size} speak of the source's tokens. Give `input_ids` beside "
            f"`encoder_outputs`, which has none."
        )
    return source[:, None]
