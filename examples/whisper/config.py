"""`WhisperConfig`: the sizes of a Whisper, in Hugging Face's names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import bart_eqx
from bart_eqx.config import MODEL_FIELDS
from bart_eqx.generation_config import GENERATION_FIELDS


# Fields of config.json that do not change what is computed here: heads for other tasks, SpecAugment, the alignment of
# words with the source.
_HARMLESS = frozenset(
    "alignment_heads apply_spec_augment classifier_proj_size mask_feature_length mask_feature_min_masks "
    "mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob median_filter_width "
    "use_weighted_layer_sum".split()
)


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """The fields of `transformers.WhisperConfig` that say what the network is. The defaults are its own.

    Raises:
        ValueError: if a size is not positive, or as `bart_eqx.BartConfig` does.
    """

    vocab_size: int = 51865
    num_mel_bins: int = 80
    max_source_positions: int = 1500
    """States of the encoder. The second convolution makes one of two frames."""
    max_target_positions: int = 448
    d_model: int = 384
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    encoder_ffn_dim: int = 1536
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    activation_function: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02
    decoder_start_token_id: int = 50257
    bos_token_id: int = 50256
    eos_token_id: int = 50256
    pad_token_id: int = 50256
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.num_mel_bins < 1 or self.max_source_positions < 1:
            sizes = f"num_mel_bins={self.num_mel_bins} and max_source_positions={self.max_source_positions}"
            raise ValueError(f"`num_mel_bins` and `max_source_positions` must be at least 1. Got {sizes}.")
        _ = self.bart

    @property
    def max_position_embeddings(self) -> int:
        """Positions of the decoder: `bart_eqx.generate` asks for them by this name."""
        return self.max_target_positions

    @property
    def bart(self) -> bart_eqx.BartConfig:
        """A BART of these sizes, which checks them and configures the layers."""
        own = {name: value for name, value in vars(self).items() if name in bart_eqx.BartConfig.__dataclass_fields__}
        return bart_eqx.BartConfig(**own, max_position_embeddings=self.max_target_positions)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "WhisperConfig":
        """Read the contents of a config.json, of Whisper or of distil-whisper.

        Raises:
            ValueError: if it is another model's, holds a field that is not known, or as `WhisperConfig` does.
        """
        if fields.get("model_type") != "whisper" or fields.get("scale_embedding"):
            wrong = {name: fields.get(name) for name in ("model_type", "scale_embedding")}
            raise ValueError(f'config.json must say model_type="whisper" and scale_embedding=false. Got {wrong}.')
        own = cls.__dataclass_fields__
        if unknown := sorted(fields.keys() - own - _HARMLESS - MODEL_FIELDS - GENERATION_FIELDS):
            raise ValueError(f"config.json holds fields that are not known to Whisper: {', '.join(unknown)}.")
        return cls(**{name: value for name, value in fields.items() if name in own})
