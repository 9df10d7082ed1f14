"""The five classes, and the names and shapes of the parameters that a checkpoint of each holds.

This needs the configuration alone and no JAX, so that the converter starts quickly. A test compares the table with the
classes themselves, which `pytree.py` lists.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from ..config import BartConfig


Shapes = dict[str, tuple[int, ...]]
# `quantization_config` in config.json of a model with int8 weights. transformers refuses the unknown method by name.
INT8_METHOD = {"quant_method": "bart_eqx", "weights": "int8"}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One of the five classes, as seen in its checkpoints.

    Args:
        name: The class, as in config.json's `architectures`.
        head: The module or array that no other class has, if any.
        has_encoder: Whether it is not a decoder alone.
        generates: Whether it has a language model head, and with it a generation_config.json.
        output: The main field of what the model returns.
    """

    name: str
    head: Literal["final_logits_bias", "classification_head", "qa_outputs"] | None = None
    has_encoder: bool = True
    generates: bool = False
    output: Literal["logits", "start_logits", "last_hidden_state"] = "logits"


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("BartModel", output="last_hidden_state"),
        Architecture("BartForConditionalGeneration", head="final_logits_bias", generates=True),
        Architecture("BartForSequenceClassification", head="classification_head"),
        Architecture("BartForQuestionAnswering", head="qa_outputs", output="start_logits"),
        Architecture("BartForCausalLM", has_encoder=False, generates=True),
    )
}


def parameter_shapes(architecture: Architecture, config: BartConfig, own_tables: Collection[str] = ()) -> Shapes:
    """The parameters of a class, in the order of the model's leaves.

    Args:
        architecture: The class.
        config: Its configuration.
        own_tables: The sides, `"encoder"` or `"decoder"`, that have a token table in addition to the shared one.
    """
    has_head = architecture.head is not None or architecture.generates
    prefix = "model." if has_head else ""
    shapes: Shapes = {}
    if architecture.has_encoder:
        shapes[f"{prefix}shared.weight"] = (config.vocab_size, config.d_model)
        shapes |= _stack(f"{prefix}encoder", config, "encoder" in own_tables)
    shapes |= _stack(f"{prefix}decoder", config, not architecture.has_encoder or "decoder" in own_tables)
    return shapes | dict(_head(architecture, config))


def _stack(name: str, config: BartConfig, has_table: bool) -> Shapes:
    dim = config.d_model
    shapes: Shapes = {f"{name}.embed_tokens.weight": (config.vocab_size, dim)} if has_table else {}
    shapes[f"{name}.embed_positions.weight"] = (config.max_position_embeddings + 2, dim)
    shapes |= _norm(f"{name}.layernorm_embedding", dim)
    encoder = name.endswith("encoder")
    layers, ffn = (
        (config.encoder_layers, config.encoder_ffn_dim) if encoder else (config.decoder_layers, config.decoder_ffn_dim)
    )
    for index in range(layers):
        layer = f"{name}.layers.{index}"
        for attention in ("self_attn",) if encoder else ("self_attn", "encoder_attn"):
            for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
                shapes |= _linear(f"{layer}.{attention}.{projection}", dim, dim)
            shapes |= _norm(f"{layer}.{attention}_layer_norm", dim)
        shapes |= _linear(f"{layer}.fc1", ffn, dim) | _linear(f"{layer}.fc2", dim, ffn)
        shapes |= _norm(f"{layer}.final_layer_norm", dim)
    return shapes


def _head(architecture: Architecture, config: BartConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    dim, vocab = config.d_model, config.vocab_size
    if architecture.generates and not config.tie_word_embeddings:
        yield "lm_head.weight", (vocab, dim)
    match architecture.head:
        case "final_logits_bias":
            yield "final_logits_bias", (1, vocab)
        case "classification_head":
            yield from _linear("classification_head.dense", dim, dim).items()
            yield from _linear("classification_head.out_proj", config.num_labels, dim).items()
        case "qa_outputs":
            yield from _linear("qa_outputs", 2, dim).items()


def _linear(name: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def int8_parameters(shapes: Shapes) -> Shapes:
    """The parameters that `quantize` stores as int8. Each comes with its `_scale`, `[out_dim]`."""
    return {
        name: shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and not name.endswith("embed_positions.weight")
    }


def has_int8(names: Iterable[str]) -> bool:
    """Whether these are the parameter names of a model with int8 weights."""
    return any(name.endswith("weight_scale") for name in names)
