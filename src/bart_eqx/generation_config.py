"""`GenerationConfig`: how a model writes, in Hugging Face's names, with Hugging Face's defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from .config import BartConfig


# Fields of a generation_config.json that say how transformers runs, or what it returns, and not which tokens come out.
_HARMLESS = frozenset(
    "_from_model_config cache_config cache_implementation compile_config disable_compile low_memory max_cache_len "
    "output_attentions output_hidden_states output_logits output_scores prefill_chunk_size return_dict_in_generate "
    "transformers_version use_cache".split()
)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """The settings of `bart_eqx.generate`, under the field names of `transformers.GenerationConfig`.

    Frozen and hashable: it is a static part of every model that generates, read from the checkpoint, and each call of
    `generate` may override it field by field.

    Raises:
        ValueError: if a number is out of its range.
    """

    max_length: int = 20
    """Most tokens of a sequence, the start token included."""
    max_new_tokens: int | None = None
    """Most tokens after the start; where given, it counts and `max_length` does not."""
    min_length: int = 0
    decoder_start_token_id: int = 2
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    forced_bos_token_id: int | None = None
    """The first token after the start, whatever the model says."""
    forced_eos_token_id: int | None = None
    """The last token of a sequence that reaches `max_length`, whatever the model says."""
    num_beams: int = 1
    num_return_sequences: int = 1
    do_sample: bool = False
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    typical_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError(f"`max_length` counts the start token, so it must be at least 2. Got {self.max_length}.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1. Got {self.max_new_tokens}.")

    @classmethod
    def from_model_config(cls, config: BartConfig) -> "GenerationConfig":
        """The token ids of a model, and otherwise the defaults."""
        return cls(**{name: getattr(config, name) for name in _shared_with_model_config()})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], config: BartConfig) -> "GenerationConfig":
        """Read the contents of a `generation_config.json`; what it leaves open, `config` says.

        Raises:
            ValueError: if a field is set that is not known here.
        """
        fields = {name: value for name, value in fields.items() if value is not None and name not in _HARMLESS}
        if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"generation_config.json sets what is not known here: {', '.join(unknown)}.")
        return dataclasses.replace(cls.from_model_config(config), **fields)

    @classmethod
    def from_legacy_dict(cls, fields: Mapping[str, Any], config: BartConfig) -> "GenerationConfig":
        """Read the generation fields that older checkpoints keep in their `config.json`."""
        own = {field.name for field in dataclasses.fields(cls)} - _shared_with_model_config()
        return cls.from_dict({name: value for name, value in fields.items() if name in own}, config)

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `generation_config.json` that transformers and `from_dict` read back."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def _shared_with_model_config() -> set[str]:
    return {field.name for field in dataclasses.fields(GenerationConfig)} & {
        field.name for field in dataclasses.fields(BartConfig)
    }
