"""Names of a BART inside something else: a wrapper's or a variable's prefix, an adapter, a quantiser.

Nothing is renamed here. The error says what to remove, in place of two lists of all parameters.
"""

import re
from collections.abc import Collection, Sequence

from .errors import MismatchError, UnsupportedCheckpointError


_WRAPPERS = {
    "module": "DataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
}
# Every BART has this parameter. Between the modules of its path there may be wrappers.
_ANCHOR = re.compile(
    r"(?P<prefix>(?:.*\.)?)decoder\.(?:(?:WRAPPER)\.)*embed_positions\.(?:weight|embedding)".replace(
        "WRAPPER", "|".join(_WRAPPERS)
    )
)
_OF_ADAPTERS = re.compile(r"(^|\.)(lora_\w+|ia3_l|base_layer|modules_to_save|original_module|prompt_embeddings)(\.|$)")
_OF_QUANTISERS = re.compile(r"\.(qweight|qzeros|SCB|weight_format|absmax|quant_map|quant_state\.\w+)$")


def check_names(names: Collection[str]) -> None:
    """Refuse names that hold a BART's and more than them.

    Args:
        names: All names of a checkpoint, as in its files.

    Raises:
        UnsupportedCheckpointError: if they are those of an adapter or of quantised weights.
        MismatchError: if a prefix or a wrapper's segment is what separates them from a BART's.
    """
    if found := [name for name in names if _OF_ADAPTERS.search(name)]:
        raise UnsupportedCheckpointError(
            f"{_few(found)}: an adapter's names, as PEFT writes them. Merge it into its base with peft's "
            "`merge_and_unload()`, save the result, and load that folder."
        )
    if found := [name for name in names if _OF_QUANTISERS.search(name)]:
        raise UnsupportedCheckpointError(
            f"{_few(found)}: weights quantised by bitsandbytes, GPTQ or AWQ, which are not read here. Load the "
            "original model, and quantise it with `bart_eqx.quantize`."
        )
    prefixes = sorted({_prefix(found["prefix"]) for name in names if (found := _ANCHOR.fullmatch(name))})
    if len(prefixes) > 1 and "" not in prefixes:
        raise MismatchError(
            f"the names are those of {len(prefixes)} models, which begin with {_few(prefixes)}: save one of them "
            "alone, without the prefix."
        )
    prefix = prefixes[0] if prefixes else ""
    inside = {s for name in names for s in name.removeprefix(prefix).split(".") if s in _WRAPPERS}
    if not prefix and not inside:
        return
    if inside:
        _refuse_wrappers(names, prefix)
    _refuse_prefix(names, prefix)


def _prefix(path: str) -> str:
    """The prefix of a BART's names, from the path of its decoder. `model.` is no prefix: it is a BART's own."""
    modules = path.split(".")[:-1]
    while modules and modules[-1] in _WRAPPERS and "model" in modules:
        modules.pop()
    if modules and modules[-1] == "model":
        modules.pop()
    return "".join(f"{module}." for module in modules)


def _refuse_wrappers(names: Collection[str], prefix: str) -> None:
    wrappers = sorted({s for name in names for s in name.split(".") if s in _WRAPPERS}, key=len, reverse=True)
    prefix = "".join(f"{module}." for module in prefix.split(".")[:-1] if module not in _WRAPPERS)
    parts = [f"`{wrapper}.`, which {_WRAPPERS[wrapper]} adds" for wrapper in wrappers]
    renamed = "name" + "".join(f".replace('{wrapper}.', '')" for wrapper in wrappers)
    if prefix:
        parts.append(f"`{prefix}` at the start")
        renamed += f".removeprefix({prefix!r})"
    raise MismatchError(f"the names contain {', and '.join(parts)}: {_save_again(renamed)}.")


def _refuse_prefix(names: Collection[str], prefix: str) -> None:
    others = [name for name in names if not name.startswith(prefix)]
    modules = prefix.split(".")[:-1]
    wrappers = [_WRAPPERS[module] for module in modules if module in _WRAPPERS]
    origin = f" ({', '.join(wrappers)})" if wrappers else ""
    count = f"all {len(names)} names" if not others else f"{len(names) - len(others)} of {len(names)} names"
    if any(name.endswith((".kernel", ".scale", ".embedding")) for name in names):
        branch = "".join(f"[{module!r}]" for module in modules)
        remedy = f"take that branch of the tree alone, `params{branch}`"
    else:
        remedy = _save_again(f"name.removeprefix({prefix!r})")
    rest = f" The others are {_few(others)}." if others else ""
    raise MismatchError(f"{count} begin with `{prefix}`{origin}: {remedy}.{rest}")


def _save_again(renamed: str) -> str:
    return f"remove it, `{{{renamed}: array for name, array in arrays.items()}}`, and save the file again"


def _few(names: Sequence[str]) -> str:
    return ", ".join(f"`{name:.80}`" for name in names[:3]) + (", ..." if len(names) > 3 else "")
