"""`GenerationConfig`: the settings of `generate`, with Hugging Face's names and defaults."""

import dataclasses
import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from beartype import beartype
from beartype.door import is_bearable

from .generation_faults import faults, sequence_biases
from .generation_options import HOW_IT_RUNS, OTHER_ARGUMENTS, REFUSED, is_off, unread
from .lazy_beartype import CONF


TokenIds = Sequence[int]


FORCED = frozenset({"forced_bos_token_id", "forced_eos_token_id"})
TOKENS = frozenset({"decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id"}) | FORCED


@runtime_checkable
class Vocabulary(Protocol):
    """The tokens in a model's configuration."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def decoder_start_token_id(self) -> int: ...
    @property
    def bos_token_id(self) -> int: ...
    @property
    def pad_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int: ...
    @property
    def forced_bos_token_id(self) -> int | None: ...
    @property
    def forced_eos_token_id(self) -> int | None: ...


def is_token(value: Any, vocab_size: int) -> bool:
    return type(value) is int and 0 <= value < vocab_size


@beartype(conf=CONF)
@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """The settings of `bart_eqx.generate`, under the field names of `transformers.GenerationConfig`.

    Frozen and hashable. Every model that generates holds one, read from its checkpoint, and each call of `generate` may
    override it field by field. Lists, as JSON has them, become tuples. `docs/generation.md` explains the fields, and
    where they differ from those of transformers.

    Raises:
        ValueError: if a number is out of range, or two fields contradict each other.
    """

    max_length: int = 20
    """The maximum number of tokens in a sequence, its prompt (the start token, or `decoder_input_ids`) included."""
    max_new_tokens: int | None = None
    """The maximum number of tokens after the prompt. If given, `max_length` is not read."""
    min_length: int = 0
    """The minimum number of tokens before the end token, the prompt included."""
    min_new_tokens: int | None = None
    """The minimum number of tokens between the prompt and the end token."""

    decoder_start_token_id: int = 2
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int | TokenIds = 2
    """The token that ends a sequence, or several such tokens."""
    forced_bos_token_id: int | None = None
    """Forced as the first generated token, if the prompt is the start token alone."""
    forced_eos_token_id: int | TokenIds | None = None
    """Forced as the last token of a sequence that reaches `max_length`."""

    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    """The number of groups of beams, which `diversity_penalty` keeps apart (arXiv:1610.02424)."""
    diversity_penalty: float = 0.0
    num_return_sequences: int = 1
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0
    force_words_ids: Sequence[TokenIds | Sequence[TokenIds]] | None = None
    """Words, as token ids, that must all occur. A list of words stands for any one of them."""
    prompt_lookup_num_tokens: int | None = None
    """Turns prompt lookup on: the number of tokens that greedy search copies as a draft, from the source or the
    sequence so far, and verifies in one call of the model."""
    max_matching_ngram_size: int | None = None
    """The longest n-gram, at the end of the sequence, that prompt lookup searches for: 2 by default."""

    temperature: float = 1.0
    top_k: int | None = 50
    """0 and `None` mean no limit."""
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
    """Pairs of token ids and a bias. The bias is added to the score of the last token where the others precede it."""
    suppress_tokens: TokenIds | None = None
    begin_suppress_tokens: TokenIds | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    """`(start, factor)`: beyond `start` tokens after the prompt, the end token's score grows by `factor` per token."""
    renormalize_logits: bool = False
    remove_invalid_values: bool = False

    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False

    unusable: tuple[tuple[str, str], ...] = ()
    """Settings of a checkpoint that cannot be used: pairs of a name and the value as JSON. The field of such a name has
    its default. `override`, and therefore `generate`, refuses these settings by name, unless the call sets them or does
    not read them; `to_dict` writes them back."""

    def __post_init__(self) -> None:
        for name in _TYPES:
            object.__setattr__(self, name, _frozen(name, getattr(self, name)))
        for _, message in faults(vars(self)):
            raise ValueError(message)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @property
    def sequence_biases(self) -> dict[tuple[int, ...], float]:
        return sequence_biases(self.sequence_bias)

    @property
    def refusal(self) -> str | None:
        """Why `generate` refuses these settings as they are; `None` if it does not."""
        try:
            self.override()
        except ValueError as error:
            return str(error)
        return None

    @classmethod
    def from_model_config(cls, config: Vocabulary) -> "GenerationConfig":
        """The defaults, with the token ids of a model."""
        return cls(**{name: getattr(config, name) for name in TOKENS})

    @classmethod
    def from_dict(
        cls, fields: Mapping[str, Any], config: Vocabulary, *, ignore: Collection[str] = ()
    ) -> "GenerationConfig":
        """Read the contents of a `generation_config.json`.

        Token ids that the file omits are the model's. Any other setting that it omits is off, as in transformers, even
        where `config` forces a token.

        No value is refused here. A setting that is unknown, not implemented, of the wrong type, out of range, or in
        contradiction to another is kept in `unusable`, and refused when it is used.

        Args:
            fields: The parsed file.
            config: The model's configuration.
            ignore: Names of settings to leave out.
        """
        ids = dataclasses.replace(cls.from_model_config(config), **dict.fromkeys(FORCED))
        settings: dict[str, Any] = {**vars(ids)}
        unusable: dict[str, Any] = {}
        for name, value in fields.items():
            if value is None or name in HOW_IT_RUNS or name in ignore or (name in REFUSED and is_off(name, value)):
                continue
            if _refusal(name, value) is None:
                settings[name] = _frozen(name, value)
            else:
                unusable[name] = value
        while fault := next(faults(settings), None):
            name = fault[0]
            settings[name], unusable[name] = getattr(ids, name), fields[name]
        settings["unusable"] = _as_json(unusable)
        return cls(**settings)

    @classmethod
    def from_legacy_dict(
        cls, fields: Mapping[str, Any], config: Vocabulary, *, ignore: Collection[str] = ()
    ) -> "GenerationConfig":
        """Read the generation fields that older checkpoints keep in their `config.json`."""
        outputs = {"output_scores", "output_logits", "output_attentions", "output_hidden_states"}  # the model's there
        own = GENERATION_FIELDS - TOKENS - outputs
        found = {name: value for name, value in fields.items() if name in own}
        found |= {name: getattr(config, name) for name in FORCED}
        if fields.get("force_bos_token_to_be_generated") and config.forced_bos_token_id is None:
            found["forced_bos_token_id"] = config.bos_token_id
        for name in FORCED | {"eos_token_id"}:  # values that only generation takes: several ends, and what is no token
            if (value := fields.get(name)) is not None and not is_token(value, config.vocab_size):
                found[name] = value
        return cls.from_dict(found, config, ignore=ignore)

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `generation_config.json` that transformers and `from_dict` read back."""
        settings = {name: getattr(self, name) for name in _TYPES}
        return {name: value for name, value in settings.items() if value is not None} | self._unusable()

    def _unusable(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self.unusable}

    def override(self, **options: Any) -> "GenerationConfig":
        """A copy with some settings changed, as `generate` makes it.

        `max_length` and `max_new_tokens` are two ways to set one limit, and so are `min_length` and `min_new_tokens`:
        giving one resets the other. `None` turns off an option that can be off, and leaves any other unchanged. NumPy
        and JAX scalars are converted to Python's.

        Raises:
            TypeError: if transformers has no such field either, or a value has the wrong type.
            ValueError: if a field is not implemented here, or a value contradicts another; or if a setting that is read
                is `unusable`.
        """
        given = options.keys()
        for name, value in options.items():
            if name in REFUSED and not is_off(name, value):
                raise ValueError(_refusal(name, value))
        may_be_off = OTHER_ARGUMENTS.keys() | (dict(self.unusable).keys() - _TYPES.keys())
        options = {
            name: _plain(name, value)
            for name, value in options.items()
            if not (name in REFUSED or (value is None and name in may_be_off))
        }
        for name in sorted(options.keys() - _TYPES.keys()):
            if name in OTHER_ARGUMENTS:
                raise ValueError(f"`{name}` is an argument of transformers. Here, {OTHER_ARGUMENTS[name]}.")
            if name in HOW_IT_RUNS:
                raise ValueError(f"`{name}` says how transformers runs, and nothing here depends on it. Leave it out.")
            near = difflib.get_close_matches(name, _TYPES, 1)
            raise TypeError(f"There is no option `{name}`.{f' Is it `{near[0]}`?' if near else ''}")
        for by_length, by_new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if options.get(by_length) is not None and options.get(by_new) is not None:
                raise ValueError(f"`{by_length}` and `{by_new}` say the same thing. Give one of them.")
            if options.get(by_length) is not None:
                options[by_new] = None
            elif options.get(by_new) is not None:
                options[by_length] = getattr(GenerationConfig, by_length)
        for name, value in options.items():
            if value is not None and (fault := _fault_of_type(name, value)) is not None:
                raise TypeError(fault)
        unusable = {n: value for n, value in self._unusable().items() if n not in given | options.keys()}
        may_be_none = {f.name for f in dataclasses.fields(self) if f.default is None} | {"top_k"}
        options = {name: value for name, value in options.items() if value is not None or name in may_be_none}
        return self._with(options, unusable)

    def _with(self, options: Mapping[str, Any], unusable: Mapping[str, Any]) -> "GenerationConfig":
        """A copy with `options`, and with those of `unusable` that can be used together with them.

        Raises:
            ValueError: if one of `unusable` is read, and not usable.
        """
        settings = vars(self) | {name: _frozen(name, value) for name, value in {**unusable, **options}.items()}
        idle = unread(settings) & unusable.keys()
        read = {name: value for name, value in unusable.items() if name not in idle}
        reasons = {name: reason for name, value in read.items() if (reason := _refusal(name, value)) is not None}
        if read and not reasons:
            settings |= {name: getattr(self, name) for name in idle}
            reasons = {name: reason for name, reason in faults(settings) if name in read}
        if reasons:
            first = [*reasons][:3]
            more = f" So are {len(reasons) - 3} more, in `unusable`." if len(reasons) > 3 else ""
            raise ValueError(
                f"{' '.join(reasons[name] for name in first)}{more} This came with the checkpoint: set "
                f"{', '.join(map(_quoted, first))} in the call (`None` turns it off), or load without it, "
                f"from_pretrained(..., ignore={first})."
            )
        kept = _as_json({name: unusable[name] for name in idle})
        return dataclasses.replace(self, **read, **options, unusable=kept)


_TYPES: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(GenerationConfig) if f.name != "unusable"}
# Every name of a setting of generation. The readers of config.json and of generation_config.json share it.
GENERATION_FIELDS = frozenset({*_TYPES, *HOW_IT_RUNS, *REFUSED})


def _refusal(name: str, value: Any) -> str | None:
    """Why a setting of a file cannot be used, whatever the others are; `None` if nothing is wrong with it alone."""
    if name in REFUSED:
        return f"`{name}={value!r:.60}` is not implemented: {REFUSED[name]}."
    if name not in _TYPES:
        return f"{_quoted(name)} is not a setting that is known here. Got {value!r:.60}."
    return _fault_of_type(name, value)


def _quoted(name: str) -> str:
    return f"`{name:.80}`" if name.isprintable() else ascii(name)[:80]  # it may hold terminal commands


def _fault_of_type(name: str, value: Any) -> str | None:
    if is_bearable(value, _TYPES[name], conf=CONF):
        return None
    kind = getattr(_TYPES[name], "__name__", None) or str(_TYPES[name])
    return f"`{name}` must be {kind.replace('collections.abc.', '').replace('typing.', '')}. Got {value!r:.60}."


def _as_json(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(value, sort_keys=True)) for name, value in sorted(settings.items()))


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


def _frozen(name: str, value: Any) -> Any:
    """Lists as tuples, transformers' `{token ids: bias}` as pairs, and no limit `top_k` as 0."""
    if name == "sequence_bias" and isinstance(value, Mapping):
        value = list(value.items())
    if name == "top_k":
        value = value or 0
    return tuple(_frozen("", item) for item in value) if isinstance(value, (list, tuple)) else value
