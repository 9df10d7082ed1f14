"""`SpeechTokens`: what a generation_config.json of Whisper has beside that of other models."""

import dataclasses
from collections.abc import Mapping
from typing import Any


# Fields of a generation_config.json that only Whisper has. `SpeechTokens` has four of them. The others are
# arguments of `Transcriber`, or for recordings of more than 30 seconds.
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
