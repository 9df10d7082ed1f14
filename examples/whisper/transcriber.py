"""`Transcriber`: from log-mel spectrograms to tokens, in a language, with or without timestamps."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

import bart_eqx
from bart_eqx.checkpoint.find import find
from bart_eqx.checkpoint.formats.json import read_json
from bart_eqx.generation.processors.scores import int_setting
from bart_eqx.typing import HostArray

from .checkpoint import from_pretrained
from .conditional_generation import WhisperForConditionalGeneration
from .processors import TimestampRules
from .speech_tokens import SpeechTokens


@dataclasses.dataclass(frozen=True)
class Transcriber:
    """A model, and the tokens by which it is told what to do."""

    model: WhisperForConditionalGeneration
    tokens: SpeechTokens

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "Transcriber":
        """From a folder or the Hub. The arguments are those of `checkpoint.from_pretrained`."""
        settings = read_json(find(source).folder / "generation_config.json")
        return cls(from_pretrained(source, **options), SpeechTokens.from_dict(settings))

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
            language: A code, such as "en"; by default the likeliest for each row.
            task: One of `task_to_id`: "transcribe", or "translate" into English.
            return_timestamps: Whether to generate tokens for times, in pairs around segments.

        Raises:
            ValueError: for a language or a task that the model does not have.
        """
        encoded = eqx.filter_jit(self.model.encode)(input_features)
        prompt = self._prompt(encoded, language, task, return_timestamps)
        processors = list(options.pop("logits_processor", ()))
        if return_timestamps:
            eos = options.get("eos_token_id", self.model.generation_config.eos_token_id)
            latest = self.tokens.max_initial_timestamp_index
            rules = TimestampRules(
                no_timestamps=int_setting(self.tokens.no_timestamps_token_id),
                eos=int_setting(int(np.ravel(eos)[0])),
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
            if language is None:
                tokens.append(detect_language(self.model, encoded, self.tokens.lang_to_id))
            else:
                tokens.append(_id_of("language", f"<|{language}|>", self.tokens.lang_to_id))
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
