"""`GenerationConfig`: how a model writes, in Hugging Face's names, with Hugging Face's defaults."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from beartype import beartype
from beartype.door import is_bearable

from .config import BartConfig
from .lazy_beartype import CONF


TokenIds = Sequence[int]

# Fields of transformers that say how it runs, or what an assistant model may do, and not which tokens come out. A
# checkpoint may have them; a call of `generate` may not.
_NOT_OURS = frozenset(
    "_commit_hash _from_model_config assistant_confidence_threshold assistant_ensemble_weight assistant_lookbehind "
    "cache_config cache_implementation compile_config continuous_batching_config disable_compile is_assistant "
    "low_memory max_cache_len num_assistant_tokens num_assistant_tokens_schedule prefill_chunk_size "
    "return_dict_in_generate return_legacy_cache speculation_type target_lookbehind transformers_version "
    "use_cache".split()
)

# Fields that would change the tokens and that are not here. Each is refused wherever it is set, with the reason.
_REFUSED = {
    "assistant_early_exit": "drafts come from `prompt_lookup_num_tokens`; there is no early exit from the decoder",
    "constraints": "Python objects cannot enter a compiled loop; give the words themselves as `force_words_ids`",
    "dola_layers": "DoLa decoding is not implemented; transformers 5 removed it too",
    "forced_decoder_ids": "transformers 5 removed it; give the tokens as `decoder_input_ids`",
    "guidance_scale": "classifier-free guidance needs a second, unconditional model call, which BART has no use for; "
    "write a `logits_processor` if you have one",
    "max_time": "a compiled loop has no clock; take tokens from `bart_eqx.stream` and stop when it is late",
    "penalty_alpha": "contrastive search is not implemented; transformers 5 removed it too",
    "stop_strings": "they need the tokenizer at every step; take tokens from `bart_eqx.stream` and stop at the string",
    "token_healing": "it needs the tokenizer; heal the prompt before it is tokenised",
    "use_mtp": "BART has no multi-token prediction heads",
    "watermarking_config": "watermarks are not implemented; one can be written as a `logits_processor`",
}
_OFF: dict[str, Any] = {"guidance_scale": 1}

# Arguments of transformers' `generate` (PyTorch's and Flax's) that have another name or no place here: what to do.
_OTHER_ARGUMENTS = {
    "assistant_model": "draft with `prompt_lookup_num_tokens`, which needs no second model",
    "assistant_tokenizer": "draft with `prompt_lookup_num_tokens`, which needs no second model",
    "custom_generate": "write the loop yourself over `model.init_cache` and `model.decode`",
    "decoder_inputs_embeds": "give tokens as `decoder_input_ids`",
    "head_mask": "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`",
    "decoder_head_mask": "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`",
    "cross_attn_head_mask": "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`",
    "inputs": "give the source as `input_ids`",
    "inputs_embeds": "encode the embeddings with `model.model.encoder`, and give the result as `encoder_outputs`",
    "logits_warper": "give the processors of your own as `logits_processor`",
    "negative_prompt_attention_mask": "there is no `guidance_scale`; write a `logits_processor`",
    "negative_prompt_ids": "there is no `guidance_scale`; write a `logits_processor`",
    "params": "the weights are in the model, which is the first argument",
    "past_key_values": "give the tokens so far as `decoder_input_ids`, or continue a cache with `model.decode`",
    "prefix_allowed_tokens_fn": "give the allowed sequences themselves as `prefix_allowed_tokens`",
    "prng_key": "give it as `key`",
    "rng": "give a JAX key as `key`",
    "seed": "give `key=jax.random.key(seed)`",
    "generator": "give a JAX key as `key`",
    "stopping_criteria": "set `max_length`, `max_new_tokens` or `eos_token_id`; or take tokens from `bart_eqx.stream`, "
    "and stop when you like",
    "streamer": "iterate over `bart_eqx.stream(...)`, which takes the same arguments",
    "synced_gpus": "the loop is one program on all devices; leave it out",
    "token_type_ids": "BART has none; leave them out of what the tokenizer returns",
    "tokenizer": "no option needs one; decode the result with it",
    "trace": "the loop is always compiled; to run it step by step, use `jax.disable_jit()`",
    "use_model_defaults": "give `generation_config`: without it the settings are the model's",
}


@beartype(conf=CONF)
@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """The settings of `bart_eqx.generate`, under the field names of `transformers.GenerationConfig`.

    Frozen and hashable: it is a static part of every model that generates, read from the checkpoint, and each call of
    `generate` may override it field by field. Lists, as JSON has them, become tuples. What each field does, beside what
    it does in transformers, is in `docs/generation.md`.

    Raises:
        ValueError: if a number is out of its range, or two fields contradict each other.
    """

    max_length: int = 20
    """Most tokens of a sequence, its prompt (the start token, or `decoder_input_ids`) included."""
    max_new_tokens: int | None = None
    """Most tokens after the prompt; where given, it counts and `max_length` does not."""
    min_length: int = 0
    """No end before so many tokens, the prompt included and the end excluded."""
    min_new_tokens: int | None = None
    """No end before so many tokens after the prompt."""

    decoder_start_token_id: int = 2
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int | TokenIds = 2
    """What ends a sequence: one token, or any of several."""
    forced_bos_token_id: int | None = None
    """The token after a lone start token, whatever the model says."""
    forced_eos_token_id: int | TokenIds | None = None
    """The last token of a sequence that reaches `max_length`, whatever the model says."""

    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    """Groups of beams that are kept apart by `diversity_penalty` (arXiv:1610.02424)."""
    diversity_penalty: float = 0.0
    num_return_sequences: int = 1
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0
    force_words_ids: Sequence[TokenIds | Sequence[TokenIds]] | None = None
    """Words, as token ids, that must all occur; in place of a word, several words of which one must."""
    prompt_lookup_num_tokens: int | None = None
    """Greedy search drafts so many tokens from the source or from what is written, and verifies them in one call."""
    max_matching_ngram_size: int | None = None
    """The longest end of what is written that prompt lookup searches for: 2 by default."""

    temperature: float = 1.0
    top_k: int | None = 50
    """0 and `None` are no limit."""
    top_p: float = 1.0
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0

    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[TokenIds] | None = None
    sequence_bias: Mapping[TokenIds, float] | Sequence[Sequence[Any]] | None = None
    """Pairs of token ids and what is added to the score of the last one where the others stand before it."""
    suppress_tokens: TokenIds | None = None
    begin_suppress_tokens: TokenIds | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    """Two numbers: after so many tokens beyond the prompt, the end's score grows by this factor with every token."""
    renormalize_logits: bool = False
    remove_invalid_values: bool = False

    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _frozen(field.name, getattr(self, field.name)))
        object.__setattr__(self, "top_k", self.top_k or 0)
        _check_ranges(self)
        _check_together(self)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @property
    def sequence_biases(self) -> dict[tuple[int, ...], float]:
        pairs: Any = self.sequence_bias or ()  # a mapping has become pairs
        return {tuple(sequence): float(bias) for sequence, bias in pairs}

    @classmethod
    def from_model_config(cls, config: BartConfig) -> "GenerationConfig":
        """The token ids of a model, and otherwise the defaults."""
        return cls(**{name: getattr(config, name) for name in _shared_with_model_config()})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], config: BartConfig) -> "GenerationConfig":
        """Read the contents of a `generation_config.json`. Token ids that it leaves open are the model's; all else that
        it leaves open is off, as in transformers, also where `config` would force a token.

        Raises:
            ValueError: if a field is set that is not known or not implemented here.
        """
        fields = {name: value for name, value in fields.items() if value is not None and name not in _NOT_OURS}
        fields = _without_refused(fields)
        if unknown := sorted(fields.keys() - _names()):
            raise ValueError(f"generation_config.json sets what is not known here: {', '.join(unknown)}.")
        for field in dataclasses.fields(cls):
            if field.name in fields and not is_bearable(fields[field.name], field.type, conf=CONF):  # pyright: ignore
                kind = getattr(field.type, "__name__", None) or str(field.type).replace("typing.", "")
                raise ValueError(f"`{field.name}` must be {kind}. Got {fields[field.name]!r:.80}.")
        ids = dataclasses.replace(cls.from_model_config(config), forced_bos_token_id=None, forced_eos_token_id=None)
        return dataclasses.replace(ids, **fields)

    @classmethod
    def from_legacy_dict(cls, fields: Mapping[str, Any], config: BartConfig) -> "GenerationConfig":
        """Read the generation fields that older checkpoints keep in their `config.json`."""
        outputs = {"output_scores", "output_logits", "output_attentions", "output_hidden_states"}  # the model's there
        own = (_names() | _REFUSED.keys()) - _shared_with_model_config() - outputs
        found = {name: value for name, value in fields.items() if name in own}
        found |= dict(forced_bos_token_id=config.forced_bos_token_id, forced_eos_token_id=config.forced_eos_token_id)
        if fields.get("force_bos_token_to_be_generated") and config.forced_bos_token_id is None:
            found["forced_bos_token_id"] = config.bos_token_id
        return cls.from_dict(found, config)

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `generation_config.json` that transformers and `from_dict` read back."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def override(self, **options: Any) -> "GenerationConfig":
        """These settings with some changed, as `generate` does it.

        `max_length` and `max_new_tokens` say the same thing twice, as do `min_length` and `min_new_tokens`: of each
        pair the one that is given counts, and the other's old value is forgotten. `None` turns an option off that can
        be off, and leaves others as they are. NumPy's and JAX's numbers are taken for Python's.

        Raises:
            TypeError: if transformers has no such field either.
            ValueError: if a field is not implemented here, or a value contradicts another.
        """
        options = {name: _plain(name, value) for name, value in _without_refused(options).items()}
        options = {name: value for name, value in options.items() if name not in _OTHER_ARGUMENTS or value is not None}
        for name in sorted(options.keys() - _names()):
            if name in _OTHER_ARGUMENTS:
                raise ValueError(f"`{name}` is an argument of transformers. Here, {_OTHER_ARGUMENTS[name]}.")
            if name in _NOT_OURS:
                raise ValueError(f"`{name}` says how transformers runs, and nothing here depends on it. Leave it out.")
            near = difflib.get_close_matches(name, _names(), 1)
            raise TypeError(f"There is no option `{name}`.{f' Is it `{near[0]}`?' if near else ''}")
        for by_length, by_new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if options.get(by_length) is not None and options.get(by_new) is not None:
                raise ValueError(f"`{by_length}` and `{by_new}` say the same thing. Give one of them.")
            if options.get(by_length) is not None:
                options[by_new] = None
            elif options.get(by_new) is not None:
                options[by_length] = getattr(GenerationConfig, by_length)
        may_be_none = {f.name for f in dataclasses.fields(self) if f.default is None} | {"top_k"}
        options = {name: value for name, value in options.items() if value is not None or name in may_be_none}
        return dataclasses.replace(self, **options)


def _plain(name: str, value: Any) -> Any:
    if not hasattr(value, "tolist"):
        return value
    try:
        return value.tolist()
    except TypeError as error:  # a tracer's
        raise TypeError(
            f"`{name}` is traced by jax.jit, jax.vmap or jax.grad, and a GenerationConfig holds plain values. "
            f"`bart_eqx.generate` takes some settings traced: docs/generation.md lists them."
        ) from error


def _names() -> set[str]:
    return {field.name for field in dataclasses.fields(GenerationConfig)}


def _shared_with_model_config() -> set[str]:
    return _names() & {field.name for field in dataclasses.fields(BartConfig)}


def _without_refused(fields: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in fields.items():
        if name in _REFUSED and not _is_off(name, value):
            raise ValueError(f"`{name}={value!r}` is not implemented: {_REFUSED[name]}.")
    return {name: value for name, value in fields.items() if name not in _REFUSED}


def _is_off(name: str, value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (list, int, float)) and value in ([], _OFF.get(name)))


def _frozen(name: str, value: Any) -> Any:
    """Lists as tuples, and transformers' `{token ids: bias}` as pairs."""
    if name == "sequence_bias" and isinstance(value, Mapping):
        value = list(value.items())
    return tuple(_frozen("", item) for item in value) if isinstance(value, (list, tuple)) else value


def _check_ranges(config: GenerationConfig) -> None:
    def check(name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"`{name}` must be {what}. Got {getattr(config, name)!r}.")

    c = config
    check("max_length", c.max_length >= 2, "at least 2, for it counts the start token")
    check("max_new_tokens", c.max_new_tokens is None or c.max_new_tokens >= 1, "at least 1")
    for name in ("num_beams", "num_beam_groups", "num_return_sequences"):
        check(name, getattr(c, name) >= 1, "at least 1")
    for name in ("min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "diversity_penalty"):
        check(name, getattr(c, name) >= 0, "at least 0")
    check("min_new_tokens", c.min_new_tokens is None or c.min_new_tokens >= 0, "at least 0")
    for name in ("temperature", "repetition_penalty", "encoder_repetition_penalty"):
        check(name, getattr(c, name) > 0, "more than 0")
    check("top_k", c.top_k is None or c.top_k >= 0, "at least 1, or 0 for no limit")
    check("top_p", 0 <= c.top_p <= 1, "between 0 and 1")
    check("min_p", c.min_p is None or 0 <= c.min_p <= 1, "between 0 and 1")
    check("top_h", c.top_h is None or 0 < c.top_h <= 1, "more than 0 and at most 1")
    check("typical_p", 0 < c.typical_p <= 1, "more than 0 and at most 1")
    for name in ("epsilon_cutoff", "eta_cutoff"):
        check(name, 0 <= getattr(c, name) < 1, "at least 0 and less than 1")
    check("early_stopping", c.early_stopping in (True, False, "never"), 'True, False or "never"')
    for name in ("prompt_lookup_num_tokens", "max_matching_ngram_size"):
        check(name, getattr(c, name) is None or getattr(c, name) >= 1, "at least 1")
    for name in ("bad_words_ids", "force_words_ids", "sequence_bias"):
        check(name, getattr(c, name) != (), "given with at least one entry, or not at all")
    pairs = c.sequence_bias or ()
    good = all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], tuple) for pair in pairs)
    check("sequence_bias", good, "pairs of token ids and a number")
    check("eos_token_id", c.eos_token_id != (), "a token, or several")
    check("forced_eos_token_id", c.forced_eos_token_id != (), "a token, several, or None")
    decay = c.exponential_decay_length_penalty
    check("exponential_decay_length_penalty", decay is None or len(decay) == 2, "a number of tokens and a factor")
    words = [*(c.bad_words_ids or ()), *c.sequence_biases, *(c.force_words_ids or ())]
    words += [alternative for word in c.force_words_ids or () for alternative in word]
    if not all(word or word == 0 for word in words):
        raise ValueError("An entry of `bad_words_ids`, `sequence_bias` or `force_words_ids` has no token.")


def _check_together(config: GenerationConfig) -> None:
    c = config
    if c.max_new_tokens is None and c.min_length > c.max_length:
        raise ValueError(f"`min_length` must not be more than `max_length`. Got {c.min_length} and {c.max_length}.")
    if c.max_new_tokens is not None and (c.min_new_tokens or 0) > c.max_new_tokens:
        raise ValueError(
            f"`min_new_tokens` must not be more than `max_new_tokens`. Got {c.min_new_tokens} and {c.max_new_tokens}."
        )
    independent = c.do_sample and c.num_beams == 1
    if c.num_return_sequences > c.num_beams and not independent:
        raise ValueError(
            f"`num_return_sequences` must not be more than `num_beams`, except when sampling without beams. Got "
            f"{c.num_return_sequences} and {c.num_beams}."
        )
    if c.num_beams % c.num_beam_groups:
        raise ValueError(
            f"`num_beams` must be a multiple of `num_beam_groups`. Got {c.num_beams}, {c.num_beam_groups}."
        )
    if (c.num_beam_groups > 1) != (c.diversity_penalty > 0):
        raise ValueError(
            f"`num_beam_groups` and `diversity_penalty` go together: groups without a penalty are all alike, and a "
            f"penalty is between groups. Got {c.num_beam_groups} and {c.diversity_penalty}."
        )
    if c.do_sample and c.num_beam_groups > 1:
        raise ValueError("`num_beam_groups` is for beam search; turn `do_sample` off.")
    if c.force_words_ids is not None and (c.num_beams == 1 or c.do_sample or c.num_beam_groups > 1):
        raise ValueError("`force_words_ids` needs beam search: `num_beams` of 2 or more, no groups, no `do_sample`.")
    if c.prompt_lookup_num_tokens is not None and (c.num_beams > 1 or c.do_sample):
        raise ValueError("`prompt_lookup_num_tokens` is for greedy search: `num_beams=1`, `do_sample=False`.")
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(c, name)
        forced = (forced,) if isinstance(forced, int) else forced
        if forced and set(forced) <= set(c.suppress_tokens or ()):
            raise ValueError(f"`suppress_tokens` bars {sorted(forced)}, which `{name}` forces.")
