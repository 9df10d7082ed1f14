"""`bart-eqx info`: what a checkpoint is, from its configuration and the headers of its files."""

import dataclasses
import json as json_library
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter


if TYPE_CHECKING:
    from ..checkpoint.architectures import Architecture, Shapes
    from ..checkpoint.read import Checkpoint

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def info(
    source: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Describe a checkpoint: its architecture, its parameters and their memory, its settings, its tasks.

    Only the configuration and the headers of the files are read, not the weights.

    For example:

        bart-eqx info bart-large-cnn
        bart-eqx info ./my-model --json

    Args:
        source: A folder, an id on the Hugging Face Hub, a short name such as bart-large-cnn, demo or demo-text.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.
        json: Print JSON.
    """
    described = describe(source, revision=revision, subfolder=subfolder)
    if json:
        print(json_library.dumps(described, indent=2, ensure_ascii=False))
        return
    for name, value in _rows(described):
        print(f"{name:22}{value}")


def describe(source: str, *, revision: str | None = None, subfolder: str | None = None) -> dict[str, Any]:
    """The description that `info` prints, as JSON.

    Raises:
        CheckpointError: if there is no such checkpoint, or it is damaged, or no BART.
    """
    from ..checkpoint.architectures import parameter_shapes
    from ..checkpoint.find import find_tokenizer

    folder = find_tokenizer(source, revision=revision, subfolder=subfolder)  # from the Hub, without the weights
    checkpoint = _read(folder)
    architecture = checkpoint.architecture()
    shapes = parameter_shapes(architecture, checkpoint.config)
    tokenizer = _tokenizer(folder, checkpoint.config.vocab_size)
    return dict(
        source=source,
        files={path.name: path.stat().st_size for path in checkpoint.files},
        architecture=architecture.name,
        config=_config(checkpoint, architecture),
        parameters=_parameters(shapes),
        memory=_memory(shapes),
        stored=sorted({str(array.dtype) for array in checkpoint.arrays.values()}),
        generation=_generation(checkpoint) if architecture.generates else None,
        tokenizer=tokenizer,
        tasks=_tasks(checkpoint, architecture, tokenizer),
    )


def _read(folder: Path) -> "Checkpoint":
    """The configuration; and the headers of the weights, where the folder has them."""
    from ..checkpoint.find import find
    from ..checkpoint.formats.json import read_json
    from ..checkpoint.formats.shards import WEIGHT_FILES
    from ..checkpoint.read import Checkpoint, configuration_errors, read_checkpoint
    from ..checkpoint.source import Source
    from ..config import BartConfig

    if any((folder / name).exists() for name in WEIGHT_FILES):
        return read_checkpoint(find(folder))
    path = folder / "config.json"
    fields = read_json(path)
    with configuration_errors(path):
        config = BartConfig.from_dict(fields)
    return Checkpoint(Source(folder.name, folder, folder), fields, config, {}, (), frozenset())


def _config(checkpoint: "Checkpoint", architecture: "Architecture") -> dict[str, Any]:
    fields = dataclasses.asdict(checkpoint.config)
    sides = ("encoder", "decoder") if architecture.has_encoder else ("decoder",)
    names = ["d_model", *(f"{side}_{size}" for side in sides for size in ("layers", "attention_heads", "ffn_dim"))]
    names += ["vocab_size", "max_position_embeddings", "activation_function"]
    labels = {"id2label": list(fields["id2label"])} if architecture.head == "classification_head" else {}
    return {name: fields[name] for name in names} | labels


def _parameters(shapes: "Shapes") -> dict[str, int]:
    """The number of parameters of each part."""
    parts: dict[str, int] = dict.fromkeys(("token_embedding", "positions", "encoder", "decoder", "head"), 0)
    for name, shape in shapes.items():
        parts[_part(name)] += math.prod(shape)
    parts = {name: count for name, count in parts.items() if count}
    return {**parts, "total": sum(parts.values())}


def _part(name: str) -> str:
    if "embed_tokens" in name or name.endswith("shared.weight"):
        return "token_embedding"
    if "embed_positions" in name:
        return "positions"
    return next((side for side in ("encoder", "decoder") if f"{side}." in name.removeprefix("model.")), "head")


def _memory(shapes: "Shapes") -> dict[str, int]:
    """The bytes of the parameters in each dtype. With int8, the scales and all other parameters are float32."""
    from ..checkpoint.architectures import int8_parameters

    total = sum(map(math.prod, shapes.values()))
    rounded = int8_parameters(shapes)
    int8 = sum(math.prod(shape) + 4 * shape[0] for shape in rounded.values())
    rest = 4 * (total - sum(map(math.prod, rounded.values())))
    return {**{dtype: size * total for dtype, size in _BYTES.items()}, "int8": int8 + rest}


def _generation(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The settings of generation that are not transformers' defaults, and what `generate` refuses of them."""
    from ..generation_config import TOKENS, GenerationConfig

    config = checkpoint.generation_config()
    default = GenerationConfig().to_dict()
    changed = {n: v for n, v in config.to_dict().items() if n not in TOKENS and v != default.get(n)}
    summarization = (checkpoint.fields.get("task_specific_params") or {}).get("summarization")
    refusal = {} if config.refusal is None else {"refused": config.refusal}
    return changed | ({"summarization": summarization} if summarization else {}) | refusal


def _tokenizer(folder: Path, vocab_size: int) -> dict[str, Any] | None:
    """The tokenizer in a folder; `None` if there is none."""
    from ..checkpoint.errors import SourceNotFoundError
    from ..text import Tokenizer

    try:
        tokenizer = Tokenizer.from_pretrained(folder)
    except SourceNotFoundError:
        return None
    mask = tokenizer.mask_token_id
    return dict(
        tokens=tokenizer.backend.get_vocab_size(),
        model=type(tokenizer.backend.model).__name__,
        prefix=tokenizer.prefix,
        mask_token=tokenizer.mask_token if mask is not None and mask < vocab_size else None,
    )


def _tasks(checkpoint: "Checkpoint", architecture: "Architecture", tokenizer: Mapping[str, Any] | None) -> list[str]:
    """The commands that run the checkpoint."""
    if tokenizer is None:
        return []
    match architecture.name:
        case "BartForConditionalGeneration" | "BartModel":
            fill = ["fill"] if tokenizer["mask_token"] is not None else []
            return ["summarize", "generate", *fill, "score", "embed"]
        case "BartForSequenceClassification":
            entailment = [name for name in checkpoint.config.id2label if name.lower().startswith("entail")]
            return ["classify", *(["zero-shot"] if len(entailment) == 1 else []), "embed"]
        case "BartForQuestionAnswering":
            return ["answer", "embed"]
        case _:
            return []


def _rows(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, parameters, tokenizer = described["config"], described["parameters"], described["tokenizer"]
    files = ", ".join(f"{name} ({_megabytes(size)})" for name, size in described["files"].items())
    rows = [
        ("source", described["source"]),
        ("weights", f"{files}, {', '.join(described['stored'])}" if files else "not on this machine"),
        ("architecture", described["architecture"]),
    ]
    for side in ("encoder", "decoder"):
        if f"{side}_layers" in config:
            layers, heads, ffn = (config[f"{side}_{size}"] for size in ("layers", "attention_heads", "ffn_dim"))
            rows.append((side, f"{layers} layers of {config['d_model']}, {heads} heads, feed-forward {ffn}"))
    rows += [
        ("activation", config["activation_function"]),
        ("vocabulary", f"{config['vocab_size']:,} tokens"),
        ("positions", f"{config['max_position_embeddings']:,}"),
    ]
    if "id2label" in config:
        labels = config["id2label"]
        rows.append(("labels", ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")))
    counts = [f"{name.replace('_', ' ')} {count:,}" for name, count in parameters.items() if name != "total"]
    rows.append(("parameters", f"{parameters['total']:,}: {', '.join(counts)}"))
    rows.append(("memory", ", ".join(f"{dtype} {_megabytes(size)}" for dtype, size in described["memory"].items())))
    if described["generation"] is not None:
        settings = ", ".join(f"{name}={value}" for name, value in described["generation"].items())
        rows.append(("generation", settings or "greedy search, by default"))
    if tokenizer is None:
        rows.append(("tokenizer", "none: the tasks need one"))
    else:
        prefix = f", prefix {tokenizer['prefix']!r}" if tokenizer["prefix"] else ""
        mask = tokenizer["mask_token"] or "no mask"
        rows.append(("tokenizer", f"{tokenizer['model']} of {tokenizer['tokens']:,} tokens, {mask}{prefix}"))
    rows.append(("tasks", ", ".join(described["tasks"]) or "none"))
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
