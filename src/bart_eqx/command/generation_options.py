"""The options of generation: the fields of `GenerationConfig`, by their names. Without one, the checkpoint's holds."""

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
        """The options that were given, as `bart_eqx.generate` takes them."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore
        return {name: None if value is OFF else value for name, value in found.items() if value is not None}


@Parameter(name="*", group=_SEARCH)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions(_Options):
    num_beams: Annotated[int | None, Parameter(alias="--beams")] = None
    """Beams of a beam search; 1 is greedy search."""
    max_length: int | None = None
    """The most tokens of a result, its start token included."""
    max_new_tokens: int | None = None
    """The most tokens of a result, its start token not included."""
    min_length: int | None = None
    """The least tokens of a result, its start token included."""
    min_new_tokens: int | None = None
    """The least tokens of a result, its start token not included."""
    length_penalty: float | None = None
    """The power of the length by which the score of a beam is divided: more than 0 prefers long results."""
    early_stopping: bool | Literal["never"] | None = None
    """Stop a beam search when there are as many results as beams."""
    no_repeat_ngram_size: int | None = None
    """Repeat no sequence of tokens of this length."""
    encoder_no_repeat_ngram_size: int | None = None
    """Repeat no sequence of tokens of this length that is in the source."""
    repetition_penalty: float | None = None
    """More than 1: tokens that are in the result already are less probable."""
    encoder_repetition_penalty: float | None = None
    """More than 1: tokens that are not in the source are less probable."""
    num_beam_groups: int | None = None
    """Groups of beams that are kept apart by the diversity penalty."""
    diversity_penalty: float | None = None
    """How much less probable a token is that another group has chosen."""
    prompt_lookup_num_tokens: int | None = None
    """Greedy search: draft this many tokens from the source. The result is the same, and sooner where it quotes."""
    max_matching_ngram_size: int | None = None
    """The longest end of the result that prompt lookup searches for in the source."""
    exponential_decay_length_penalty: _Json = None
    """[tokens, factor]: beyond `tokens` tokens, the end becomes more probable by `factor` with each."""
    renormalize_logits: bool | None = None
    """Normalise probabilities after all of these options."""
    remove_invalid_values: bool | None = None
    """Replace scores that are no numbers, for models that overflow."""


@Parameter(name="*", group=_SAMPLING)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions(_Options):
    do_sample: bool | None = None
    """Draw tokens by their probabilities. Needs --seed."""
    temperature: float | None = None
    """Less than 1 draws probable tokens more often."""
    top_k: int | None = None
    """Draw from this many tokens; 0 is no limit."""
    top_p: float | None = None
    """Draw from the fewest tokens that have this probability together."""
    min_p: float | None = None
    """Draw no token that is less probable than this part of the most probable."""
    top_h: float | None = None
    """Draw from tokens up to this part of the entropy."""
    typical_p: float | None = None
    """Draw from the most typical tokens that have this probability together."""
    epsilon_cutoff: float | None = None
    """Draw no token that is less probable than this."""
    eta_cutoff: float | None = None
    """As epsilon_cutoff, by the entropy."""
    num_return_sequences: int | None = None
    """Results for each text, of sampling or of the beams."""


@Parameter(name="*", group=_TOKENS)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenOptions(_Options):
    bad_words_ids: _Json = None
    """Token ids that never occur: [[8], [9, 10]]."""
    force_words_ids: _Json = None
    """Token ids that occur in every result: [[8], [9, 10]]. For beam search."""
    sequence_bias: _Json = None
    """Pairs of token ids and what is added to their score: [[[8, 9], -2.5]]."""
    suppress_tokens: _Json = None
    """Tokens that never occur: [8, 9]."""
    begin_suppress_tokens: _Json = None
    """Tokens that do not come first: [8, 9]."""
    forced_bos_token_id: _Json = None
    """The first token. null: none is forced."""
    forced_eos_token_id: _Json = None
    """The last token of a result of the greatest length. null: none is forced."""
    decoder_start_token_id: int | None = None
    """The start token."""
    bos_token_id: int | None = None
    """The first token of a text."""
    eos_token_id: _Json = None
    """The token, or the tokens, that end a result."""
    pad_token_id: int | None = None
    """The token of padding."""


def options_of(*given: _Options | None) -> dict[str, Any]:
    """All options together."""
    return {name: value for options in given if options is not None for name, value in options.given().items()}
