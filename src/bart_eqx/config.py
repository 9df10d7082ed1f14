"""`BartConfig`: the sizes and settings of a BART, in Hugging Face's names, checked before anything is allocated."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any

from beartype import beartype

from .generation_config import FORCED, GENERATION_FIELDS, is_token
from .lazy_beartype import CONF


# The names of transformers' `ACT2FN`, except those that have parameters.
ACTIVATIONS = tuple(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh hardswish laplace "
    "leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu sqrtsoftplus swish tanh".split()
)
_PARAMETRIC_ACTIVATIONS = ("prelu", "xielu")

# Fields of a BART's config.json that do not change what the network computes, and are dropped. `GENERATION_FIELDS` has
# those of generation.
_HARMLESS = frozenset(
    # bookkeeping
    "_auto_class _name_or_path _num_labels architectures attn_implementation _attn_implementation "
    "_attn_implementation_autoset _attn_implementation_internal author auto_map bart_eqx_ignore bos_token_ids dtype "
    "eos_token_ids experts_implementation _experts_implementation _experts_implementation_internal finetuning_task "
    "gradient_checkpointing "
    "kobart_version label2id mask_token_id max_source_length max_target_length model_type name_or_path output_past "
    "_output_attentions _post_init_done prefix problem_type replacing_rate "
    "save_step student_decoder_layers student_encoder_layers task_specific_params tf_legacy_loss tokenizer_class "
    "torch_dtype torchscript unk_token_id use_bfloat16 xla_device "
    # how weights are drawn; `init_std` is BART's
    "initializer_range initializer_factor "
    # what a call returns, chosen here by the call's own arguments
    "return_dict use_return_dict tie_last_hidden_states "
    # superseded names that transformers itself no longer reads
    "classif_dropout force_bos_token_to_be_generated "
    # other architectures' fields that PretrainedConfig writes for all
    "cross_attention_hidden_size add_cross_attention is_decoder sep_token_id num_hidden_layers "
    "chunk_size_feed_forward".split()
)
# transformers' general names of BART's fields.
_ALIASES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}
# In config.json of a conversion with `ignore`: the names of the fields that were accepted unread.
IGNORED = "bart_eqx_ignore"

_MAX_LABELS = 1_000_000  # each has a name, even where the file has none

# Fields that change the network, with the only values under which it is the one built here.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "add_bias_logits": (False,),
    "add_final_layer_norm": (False,),
    "do_blenderbot_90_layernorm": (False,),
    "extra_pos_embeddings": (2,),
    "normalize_before": (False,),
    "normalize_embedding": (True,),
    "per_layer_config": (None, {}),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "static_position_embeddings": (False,),
    "tie_encoder_decoder": (False,),
}


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """The sizes and rates of one layer, of either side."""

    dim: int
    num_heads: int
    ffn_dim: int
    activation_function: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    init_std: float


@beartype(conf=CONF)
@dataclasses.dataclass(frozen=True)
class BartConfig:
    """The sizes and settings of a BART, under the field names of `transformers.BartConfig`.

    Frozen and hashable: it is a static part of every model. The defaults are those of `facebook/bart-large`.

    Raises:
        ValueError: if a size is not positive, a rate is outside `[0, 1)`, the heads do not divide `d_model`, a token id
            is outside the vocabulary, or the activation is unknown. All faults are reported together.
    """

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    classifier_dropout: float = 0.0
    scale_embedding: bool = False
    num_labels: int = 3
    id2label: tuple[str, ...] = ()
    """The name of each class, in order. By default `LABEL_0`, `LABEL_1`, ..., whose number follows `num_labels`."""
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = 2
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        # Default names follow `num_labels`, also in `dataclasses.replace(config, num_labels=...)`.
        if self.num_labels <= _MAX_LABELS and self.id2label == _default_labels(len(self.id2label)):
            object.__setattr__(self, "id2label", _default_labels(self.num_labels))
        if faults := self._faults():
            raise ValueError("This BartConfig cannot be built:\n" + "\n".join(f"- {fault}" for fault in faults))

    @property
    def encoder_layer(self) -> LayerConfig:
        return self._layer(self.encoder_attention_heads, self.encoder_ffn_dim)

    @property
    def decoder_layer(self) -> LayerConfig:
        return self._layer(self.decoder_attention_heads, self.decoder_ffn_dim)

    def _layer(self, num_heads: int, ffn_dim: int) -> LayerConfig:
        return LayerConfig(
            dim=self.d_model,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            activation_function=self.activation_function,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            init_std=self.init_std,
        )

    @property
    def embed_scale(self) -> float:
        """The factor of token embeddings, before positions are added."""
        return math.sqrt(self.d_model) if self.scale_embedding else 1.0

    def _faults(self) -> list[str]:
        faults = []
        for name in (
            "vocab_size",
            "max_position_embeddings",
            "d_model",
            "encoder_layers",
            "encoder_ffn_dim",
            "encoder_attention_heads",
            "decoder_layers",
            "decoder_ffn_dim",
            "decoder_attention_heads",
            "num_labels",
        ):
            if getattr(self, name) < 1:
                faults.append(f"`{name}` must be at least 1. Got {getattr(self, name)}.")
        for name in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "classifier_dropout",
            "encoder_layerdrop",
            "decoder_layerdrop",
        ):
            if not 0 <= getattr(self, name) < 1:
                faults.append(f"`{name}` must be in [0, 1). Got {getattr(self, name)}.")
        if not (math.isfinite(self.init_std) and self.init_std >= 0):
            faults.append(f"`init_std` must be a finite number, not negative. Got {self.init_std}.")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if heads >= 1 and self.d_model % heads:
                faults.append(f"`d_model` must be divisible by `{name}`. Got d_model={self.d_model}, {name}={heads}.")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                faults.append(f"`{name}` must be in [0, vocab_size={self.vocab_size}). Got {getattr(self, name)}.")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                faults.append(f"`{name}` must be None or in [0, vocab_size={self.vocab_size}). Got {token}.")
        if self.activation_function in _PARAMETRIC_ACTIVATIONS:
            faults.append(
                "`activation_function` must have no parameters of its own: BART's checkpoints have no names for them. "
                f"Got {self.activation_function!r}."
            )
        elif self.activation_function not in ACTIVATIONS:
            faults.append(
                f"`activation_function` must be one of {', '.join(ACTIVATIONS)}. Got {self.activation_function!r}."
            )
        if self.num_labels > _MAX_LABELS:
            faults.append(f"`num_labels` must be at most {_MAX_LABELS:,}. Got {self.num_labels}.")
        elif len(self.id2label) != self.num_labels:
            faults.append(
                f"`id2label` must name num_labels={self.num_labels} classes. Got {len(self.id2label)}. Change both, or "
                f"give id2label=() for LABEL_0, LABEL_1, ..."
            )
        return faults

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, ignore: Collection[str] = ()) -> "BartConfig":
        """Read the contents of a Hugging Face `config.json`, of any transformers version.

        Fields known to change nothing are dropped, and so are those of generation, which
        [`GenerationConfig.from_legacy_dict`][] reads. Fields that describe another network, and unknown fields, are
        refused: no checkpoint is read as something that it is not.

        Args:
            fields: The parsed file.
            ignore: Names of unknown fields to drop instead. Those that a conversion recorded under `bart_eqx_ignore`
                are dropped too.

        Raises:
            ValueError: if the fields describe another model than BART, or hold a field that is not known.
        """
        left_out = ignored_fields(fields, ignore)
        fields = {name: value for name, value in fields.items() if name not in left_out}
        model_type = fields.get("model_type", "bart")
        if model_type != "bart":
            raise ValueError(f'This is not a BART: config.json must say model_type="bart". Got {model_type!r}.')
        for name, allowed in _FIXED.items():
            if name in fields and fields[name] not in allowed:
                raise ValueError(
                    f"config.json asks for a variant of BART that is not implemented: `{name}` must be {allowed[0]!r}. "
                    f"Got {fields[name]!r}."
                )
        own = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - MODEL_FIELDS - GENERATION_FIELDS):
            raise ValueError(
                f"config.json holds fields that are not known to BART: {', '.join(unknown[:10])}"
                f"{', ...' if len(unknown) > 10 else ''}. If they do not change "
                f"what the network computes, pass ignore={unknown[:5]}, or --ignore FIELD to the command."
            )

        known = {name: value for name, value in fields.items() if name in own}
        for alias, name in _ALIASES.items():
            if alias in fields and known.setdefault(name, fields[alias]) != fields[alias]:
                raise ValueError(
                    f"`{alias}` and `{name}` are the same field. Got {fields[alias]!r} and {known[name]!r}: remove one."
                )
        if (labels := known.pop("id2label", None)) is not None:
            known["id2label"] = _labels_in_order(labels)
            known.setdefault("num_labels", len(known["id2label"]))
        if isinstance(ends := known.get("eos_token_id"), list) and ends:
            known["eos_token_id"] = ends[0]  # generation ends at any of them
        if known.get("forced_bos_token_id") is None and fields.get("force_bos_token_to_be_generated"):
            known["forced_bos_token_id"] = known.get("bos_token_id", cls.bos_token_id)
        for name, value in known.items():
            if name not in FORCED:
                _check_type(own[name], value)
        for name in FORCED & known.keys():  # only generation reads them, and refuses what is no token
            if not is_token(known[name], known.get("vocab_size", cls.vocab_size)):
                known[name] = None
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `config.json` that transformers and [`BartConfig.from_dict`][] read back."""
        fields = dataclasses.asdict(self)
        fields["id2label"] = {str(index): label for index, label in enumerate(self.id2label)}
        fields["label2id"] = {label: index for index, label in enumerate(self.id2label)}
        return {"model_type": "bart", **fields}


# Every field of a BART's config.json that is not a setting of generation.
MODEL_FIELDS = (
    frozenset({*(field.name for field in dataclasses.fields(BartConfig)), *_HARMLESS, *_FIXED, *_ALIASES})
    - GENERATION_FIELDS
)


def ignored_fields(fields: Mapping[str, Any], ignore: Collection[str]) -> frozenset[str]:
    """The names in `ignore`, and those that a conversion recorded in these fields of a config.json.

    Raises:
        TypeError: if `ignore` is one string.
        ValueError: if the record is not a list of names.
    """
    if isinstance(ignore, str):
        raise TypeError(f"`ignore` must be a list of names, as [{ignore!r}]. Got a string.")
    recorded = fields.get(IGNORED, [])
    if not isinstance(recorded, list) or not all(isinstance(name, str) for name in recorded):
        raise ValueError(f"`{IGNORED}` must be a list of names. Got {recorded!r:.80}.")
    return frozenset({*ignore, *recorded})


def _default_labels(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{index}" for index in range(count))


def _labels_in_order(labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, Mapping):
        raise ValueError(f"`id2label` must map 0, 1, ... to labels. Got {labels!r}.")
    by_index = {str(index): label for index, label in labels.items()}
    if by_index.keys() != {str(index) for index in range(len(by_index))}:
        raise ValueError(f"`id2label` must name the classes 0 to {len(by_index) - 1}. Got {labels!r}.")
    return tuple(str(by_index[str(index)]) for index in range(len(by_index)))


def _check_type(field: dataclasses.Field[Any], value: Any) -> None:
    """Refuses, for example, `"true"` for a flag and 12.0 for a size, which would change the network or fail later."""
    allowed = _JSON_TYPES.get(field.type)
    if allowed is not None and type(value) not in allowed:
        expected = " or ".join("null" if kind is NoneType else kind.__name__ for kind in allowed)
        raise ValueError(f"`{field.name}` must be {expected}. Got {value!r}.")


_JSON_TYPES: Mapping[Any, tuple[type, ...]] = {
    bool: (bool,),
    float: (float, int),
    int: (int,),
    int | None: (int, NoneType),
    str: (str,),
}
