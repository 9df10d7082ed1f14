"""What a checkpoint of each class holds: every parameter's name and shape, from the configuration alone.

The classes say the same by being built. Said here once more, a checkpoint can be judged, and converted, without JAX.
"""

from collections.abc import Collection, Iterator

from ..config import BartConfig


Shapes = dict[str, tuple[int, ...]]
CLASS_NAMES = (
    "BartModel",
    "BartForConditionalGeneration",
    "BartForSequenceClassification",
    "BartForQuestionAnswering",
    "BartForCausalLM",
)
WRITERS = ("BartForConditionalGeneration", "BartForCausalLM")


def parameter_shapes(class_name: str, config: BartConfig, own_tables: Collection[str] = ()) -> Shapes:
    """The parameters of a class, in the order of its leaves.

    `own_tables` are the sides, "encoder" or "decoder", that have a token table beside the shared one.
    """
    prefix = "" if class_name == "BartModel" else "model."
    alone = class_name == "BartForCausalLM"
    shapes: Shapes = {}
    if not alone:
        shapes[f"{prefix}shared.weight"] = (config.vocab_size, config.d_model)
        shapes |= _stack(f"{prefix}encoder", config, "encoder" in own_tables)
    shapes |= _stack(f"{prefix}decoder", config, alone or "decoder" in own_tables)
    return shapes | dict(_head(class_name, config))


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


def _head(class_name: str, config: BartConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    dim, vocab = config.d_model, config.vocab_size
    if class_name in WRITERS and not config.tie_word_embeddings:
        yield "lm_head.weight", (vocab, dim)
    if class_name == "BartForConditionalGeneration":
        yield "final_logits_bias", (1, vocab)
    if class_name == "BartForSequenceClassification":
        yield from _linear("classification_head.dense", dim, dim).items()
        yield from _linear("classification_head.out_proj", config.num_labels, dim).items()
    if class_name == "BartForQuestionAnswering":
        yield from _linear("qa_outputs", 2, dim).items()


def _linear(name: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def int8_parameters(shapes: Shapes) -> Shapes:
    """The parameters that `quantize` makes int8, of those with these shapes. Each has a scale beside it."""
    return {
        name: shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and not name.endswith("embed_positions.weight")
    }
