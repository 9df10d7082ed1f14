"""`Transcriber`: from log-mel spectrograms to tokens, in a language, with or without timestamps."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

import bart_eqx
from bart_eqx.generation.processors.scores import int_setting
from bart_eqx.typing import HostArray

from .conditional_generation import WhisperForConditionalGeneration
from .processors import TimestampRules


# Fields of a generation_config.json that only Whisper has. `SpeechTokens` reads four of them; the others are replaced
# by arguments of `Transcriber`, or are for recordings of more than 30 seconds.
SPEECH_FIELDS = frozenset(
    "alignment_heads compression_ratio_threshold condition_on_prev_tokens forced_decoder_ids is_multilingual "
    "lang_to_id language logprob_threshold max_initial_timestamp_index median_filter_width no_speech_threshold "
    "no_timestamps_token_id prev_sot_token_id prompt_condition_type return_timestamps task task_to_id".split()
)


@dataclasses.dataclass(frozen=True)
class SpeechTokens:
    """The tokens of a Whisper's prompt. A model of one language has none for languages and tasks."""

    no_timestamps_token_id: int
    max_initial_timestamp_index: int | None = None
    lang_to_id: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """As in generation_config.json: `{"<|en|>": 50259, ...}`."""
    task_to_id: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SpeechTokens":
        """Read the contents of a generation_config.json."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})


@dataclasses.dataclass(frozen=True)
class Transcriber:
    """A model, and the tokens by which it is told what to do."""

    model: WhisperForConditionalGeneration
    tokens: SpeechTokens

    def __call__(
        self,
        input_features: Float[HostArray, "*batch mel frames"],
        *,
        language: str | None = None,
        task: str = "transcribe",
        return_timestamps: bool = False,
        **options: Any,
    ) -> bart_eqx.GenerationResult:
        """Transcribe 30 seconds each. `options` are those of `bart_eqx.generate`.

        Args:
            input_features: Spectrograms, as transformers' `WhisperFeatureExtractor` makes them.
            language: One of `lang_to_id`, as `"<|en|>"`; by default the likeliest for each row.
            task: One of `task_to_id`: "transcribe", or "translate" into English.
            return_timestamps: Whether to generate tokens for times, in pairs around segments.

        Raises:
            ValueError: for a language or a task that the model does not have.
        """
        encoded = eqx.filter_jit(self.model.encode)(input_features)
        prompt = self._prompt(encoded, language, task, return_timestamps)
        processors = list(options.pop("logits_processor", ()))
        if return_timestamps:
            settings, latest = self.model.generation_config.override(**options), self.tokens.max_initial_timestamp_index
            rules = TimestampRules(
                no_timestamps=int_setting(self.tokens.no_timestamps_token_id),
                eos=int_setting(settings.eos_token_ids[0]),
                begin=int_setting(prompt.shape[-1]),
                max_initial=int_setting(self.model.config.vocab_size if latest is None else latest),
            )
            processors.insert(0, rules)
        return bart_eqx.generate(
            self.model, encoder_outputs=encoded, decoder_input_ids=prompt, logits_processor=processors, **options
        )

    def _prompt(
        self, encoded: bart_eqx.BaseModelOutput, language: str | None, task: str, return_timestamps: bool
    ) -> Integer[np.ndarray, "*batch prompt"]:
        tokens: list[Any] = [self.model.generation_config.decoder_start_token_id]
        if self.tokens.lang_to_id:
            tokens.append(
                detect_language(self.model, encoded, self.tokens.lang_to_id)
                if language is None
                else (_id_of("language", f"<|{language}|>", self.tokens.lang_to_id))
            )
            tokens.append(_id_of("task", task, self.tokens.task_to_id))
        elif language is not None or task != "transcribe":
            raise ValueError(f"This model transcribes one language. Got language={language!r} and task={task!r}.")
        if not return_timestamps:
            tokens.append(self.tokens.no_timestamps_token_id)
        batch = encoded.last_hidden_state.shape[:-2]
        return np.stack([np.broadcast_to(np.asarray(token, np.int32), batch) for token in tokens], axis=-1)


@eqx.filter_jit
def detect_language(
    model: WhisperForConditionalGeneration, encoded: bart_eqx.BaseModelOutput, lang_to_id: Mapping[str, int]
) -> Integer[Array, "*batch"]:
    """The likeliest of these tokens after the start token."""
    start = model.generation_config.decoder_start_token_id
    ids = jnp.full((*encoded.last_hidden_state.shape[:-2], 1), start)
    output, _ = model.decode(ids, model.init_cache(encoded, max_length=1))
    languages = int_setting(list(lang_to_id.values()))
    return languages[jnp.argmax(output.logits[..., 0, languages], axis=-1)]


def _id_of(what: str, name: str, ids: Mapping[str, int]) -> int:
    if name not in ids:
        raise ValueError(f"`{what}` must be one of {', '.join(ids)}. Got {name!r:.80}.")
    return ids[name]
