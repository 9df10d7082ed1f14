"""The options of generation: the fields of `GenerationConfig`. By default they are the checkpoint's."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token


_SEARCH, _SAMPLING, _TOKENS = (
    Group(name, sort_key=3 + index) for index, name in enumerate(("Search", "Sampling", "Tokens"))
)
OFF = "off"  # the JSON null: an option of the checkpoint is turned off


def _from_json(type_: Any, tokens: Sequence[Token]) -> Any:
    try:
        value = json.loads(tokens[0].value)
    except json.JSONDecodeError:
        raise ValueError(f"it must be JSON, such as [[8, 9], [10]]. Got {tokens[0].value!r:.80}") from None
    return OFF if value is None else value


# Token ids, and lists of them. `null` turns an option off.
_Json = Annotated[Any, Parameter(converter=_from_json, n_tokens=1, metavar="JSON", negative="", accepts_keys=False)]


class _Options:
    def given(self) -> dict[str, Any]:
        """The options that were set, as `bart_eqx.generate` takes them."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore
        return {name: None if value is OFF else value for name, value in found.items() if value is not None}


@Parameter(name="*", group=_SEARCH)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions(_Options):
    num_beams: Annotated[int | None, Parameter(alias="--beams")] = None
    """Beams of a beam search; 1 is greedy search."""
    max_length: int | None = None
    """The maximum number of tokens in a result, including the start token."""
    max_new_tokens: int | None = None
    """The maximum number of tokens in a result, excluding the start token."""
    min_length: int | None = None
    """The minimum number of tokens in a result, including the start token."""
    min_new_tokens: int | None = None
    """The minimum number of tokens in a result, excluding the start token."""
    length_penalty: float | None = None
    """The power of the length by which the score of a beam is divided: above 0, long results are preferred."""
    early_stopping: bool | Literal["never"] | None = None
    """Stop a beam search once it has found as many results as it has beams."""
    no_repeat_ngram_size: int | None = None
    """Repeat no n-gram of this many tokens."""
    encoder_no_repeat_ngram_size: int | None = None
    """Repeat no n-gram of this many tokens from the source."""
    repetition_penalty: float | None = None
    """Above 1: tokens that are in the result already become less probable."""
    encoder_repetition_penalty: float | None = None
    """Above 1: tokens that are not in the source become less probable."""
    num_beam_groups: int | None = None
    """The number of groups of beams, which the diversity penalty keeps apart."""
    diversity_penalty: float | None = None
    """Subtracted from the score of a token for each beam of an earlier group that chose it."""
    prompt_lookup_num_tokens: int | None = None
    """Greedy search: copy drafts of this many tokens from the source. The same result, faster where it quotes."""
    max_matching_ngram_size: int | None = None
    """The longest n-gram, at the end of the result, that prompt lookup searches for."""
    exponential_decay_length_penalty: _Json = None
    """[start, factor]: beyond `start` tokens, the score of the end grows by `factor` per token."""
    renormalize_logits: bool | None = None
    """Normalise the probabilities after all these options."""
    remove_invalid_values: bool | None = None
    """Replace NaN and infinite scores, for models that overflow."""


@Parameter(name="*", group=_SAMPLING)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions(_Options):
    do_sample: bool | None = None
    """Draw tokens by their probabilities. Needs --seed."""
    temperature: float | None = None
    """Below 1, probable tokens are drawn more often."""
    top_k: int | None = None
    """Draw from the most probable tokens, this many; 0 means no limit."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities reach this sum."""
    min_p: float | None = None
    """Draw no token less probable than this fraction of the most probable."""
    top_h: float | None = None
    """Draw from the most probable tokens up to this fraction of the entropy."""
    typical_p: float | None = None
    """Draw from the most typical tokens whose probabilities reach this sum."""
    epsilon_cutoff: float | None = None
    """Draw no token less probable than this."""
    eta_cutoff: float | None = None
    """As epsilon_cutoff, with a threshold that falls as the entropy rises."""
    num_return_sequences: int | None = None
    """The number of results for each text, by sampling or from the beams."""


@Parameter(name="*", group=_TOKENS)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenOptions(_Options):
    bad_words_ids: _Json = None
    """Sequences of token ids that must not occur: [[8], [9, 10]]."""
    force_words_ids: _Json = None
    """Sequences of token ids that must occur in every result: [[8], [9, 10]]. For beam search."""
    sequence_bias: _Json = None
    """Pairs of token ids and a bias that is added to their score: [[[8, 9], -2.5]]."""
    suppress_tokens: _Json = None
    """Tokens that must not occur: [8, 9]."""
    begin_suppress_tokens: _Json = None
    """Tokens that must not come first: [8, 9]."""
    forced_bos_token_id: _Json = None
    """The first token. null: none is forced."""
    forced_eos_token_id: _Json = None
    """The last token of a result that reaches the maximum length. null: none is forced."""
    decoder_start_token_id: int | None = None
    """The start token."""
    bos_token_id: int | None = None
    """The first token of a text."""
    eos_token_id: _Json = None
    """The token, or the tokens, that end a result."""
    pad_token_id: int | None = None
    """The padding token."""


def options_of(*given: _Options | None) -> dict[str, Any]:
    """All options together."""
    return {name: value for options in given if options is not None for name, value in options.given().items()}
