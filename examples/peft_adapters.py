"""Adapter folders of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`, read and written.

PEFT names an adapter by its module's path in PyTorch, which is the attribute path here.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_map_with_path
from safetensors.numpy import load_file, save_file

from bart_eqx.model.layers import Linear
from bart_eqx.model.quantized import QuantizedLinear

from .lora import LoRALinear, named


PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# How the adapter was trained and where it belongs: its arrays say what they adapt.
HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config"),
    *("exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout"),
    *("megatron_core", "modules_to_save", "peft_version", "qalora_group_size", "revision", "target_modules"),
    *("runtime_config", "task_type"),
}
READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}


def load_adapter(model: Any, folder: str | Path) -> Any:
    """The model with the adapters of a folder, and with the whole parameters that were saved with them.

    Args:
        model: The model that was adapted: float32, or with int8 weights.
        folder: As PEFT's `save_pretrained` or `save_adapter` writes it.

    Raises:
        ValueError: if the folder is not LoRA's, has settings that would change the result, or arrays for which the
            model has no place.
    """
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    unknown = {name for name, value in config.items() if value and name not in HARMLESS | READ}
    if config["peft_type"] != "LORA" or unknown or config.get("init_lora_weights", True) not in (True, "gaussian"):
        found = {name: config[name] for name in ("peft_type", "init_lora_weights", *sorted(unknown)) if name in config}
        raise ValueError(f"Only plain LoRA adapters can be read. Got {found}.")
    arrays = {
        name.removeprefix(PREFIX).replace(".base_layer.", "."): array
        for name, array in load_file(Path(folder) / "adapter_model.safetensors").items()
    }

    whole = lambda path, leaf: _replaced(leaf, keystr(path, simple=True, separator="."), arrays)
    model, adapters = tree_map_with_path(whole, model), {}
    for name, linear in named(model, Linear, QuantizedLinear).items():
        if {name + A, name + B} <= arrays.keys():
            lora_A, lora_B = jnp.asarray(arrays.pop(name + A)), jnp.asarray(arrays.pop(name + B))
            if (len(lora_B), lora_A.shape[1]) != linear.weight.shape:
                raise ValueError(f"The adapter of {name} is for weights of shape {len(lora_B), lora_A.shape[1]}.")
            alphas = [v for k, v in config.get("alpha_pattern", {}).items() if re.match(rf"(.*\.)?({k})$", name)]
            alpha, rank = (*alphas, config["lora_alpha"])[0], len(lora_A)
            scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            adapters[name] = LoRALinear(linear, lora_A, lora_B, scaling)
    if arrays or not adapters:
        raise ValueError(f"The model has no place for {sorted(arrays)[:5]}: is it of another class?")
    where = lambda model: [named(model, Linear, QuantizedLinear)[name] for name in adapters]
    return eqx.tree_at(where, model, [*adapters.values()])


def _replaced(leaf: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if not eqx.is_array(leaf) or name not in arrays:
        return leaf
    array = arrays.pop(name)
    if array.shape != leaf.shape or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise ValueError(f"{name} must be {leaf.dtype}{leaf.shape}, as in the model. Got {array.dtype}{array.shape}.")
    return jnp.asarray(array, leaf.dtype)


def save_adapter(model: Any, folder: str | Path, *, base_model: str | None = None) -> None:
    """Write the adapters of a model, and nothing else, as a folder that `peft.PeftModel.from_pretrained` loads.

    Args:
        model: With adapters.
        folder: Created if it does not exist.
        base_model: The name or folder of the model that was adapted.

    Raises:
        ValueError: if the model has no adapters.
    """
    adapters = named(model, LoRALinear)
    if not adapters:
        raise ValueError("The model has no LoRA adapters to save.")
    ranks = {name: node.lora_A.shape[0] for name, node in adapters.items()}
    alphas = {name: round(node.scaling * ranks[name], 9) for name, node in adapters.items()}
    (rank, _), (alpha, _) = Counter(ranks.values()).most_common(1)[0], Counter(alphas.values()).most_common(1)[0]
    config = dict(
        peft_type="LORA",
        base_model_name_or_path=base_model,
        r=rank,
        lora_alpha=alpha,
        rank_pattern={re.escape(name): r for name, r in ranks.items() if r != rank},
        alpha_pattern={re.escape(name): a for name, a in alphas.items() if a != alpha},
        target_modules=sorted(adapters),
        bias="none",
        inference_mode=True,
    )
    arrays = {PREFIX + name + A: np.asarray(node.lora_A) for name, node in adapters.items()}
    arrays |= {PREFIX + name + B: np.asarray(node.lora_B) for name, node in adapters.items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(arrays, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
