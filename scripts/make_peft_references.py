"""Make the stored references of `examples/peft_adapters.py`, in two environments.

    .venv/bin/python scripts/make_peft_references.py write    # a folder of adapters, as this project writes it
    SOME_ENVIRONMENT/bin/python scripts/make_peft_references.py    # transformers 5, PyTorch and peft

The second makes folders with PEFT and stores their logits, and those of the first folder, as PEFT loads it.
"""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np


ROOT = Path(__file__).parents[1]
BASE, TARGET = ROOT / "tests/references/converted", ROOT / "tests/references/peft"
ADAPTED: dict[str, dict[str, Any]] = {
    "plain": dict(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "patterns": dict(
        r=2,
        lora_alpha=8,
        target_modules=r".*(self_attn\.out_proj|fc1)",
        rank_pattern={"decoder.layers.1.self_attn.out_proj": 3},
        alpha_pattern={"encoder.*fc1": 5},
    ),
    "whole-parameters": dict(
        r=3,
        lora_alpha=2,
        use_rslora=True,
        target_modules=["k_proj"],
        bias="lora_only",
        modules_to_save=["final_layer_norm"],
    ),
}


def write() -> None:
    import jax

    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    import bart_eqx
    from examples import lora
    from examples.peft_adapters import save_adapter

    model: Any = bart_eqx.from_pretrained(BASE, bart_eqx.BartForConditionalGeneration)
    for number, (paths, rank, alpha) in enumerate([(r".*\.[qv]_proj", 2, 8.0), (r".*decoder.*fc2", 3, 1.5)]):
        model = lora.attach(model, paths, rank=rank, alpha=alpha, key=jax.random.key(number))
    trained = jax.tree.map(
        lambda leaf, adapter: jax.random.normal(jax.random.key(leaf.size), leaf.shape) / 2 if adapter else leaf,
        model,
        lora.is_adapter(model),
    )
    save_adapter(trained, TARGET / "written", base_model="converted")


def read() -> None:
    import peft
    import torch
    import transformers

    inputs = dict(
        input_ids=torch.tensor([[0, 5, 6, 7, 2], [0, 8, 9, 2, 1]]),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        decoder_input_ids=torch.tensor([[2, 0, 5, 6, 7], [2, 0, 8, 9, 2]]),
    )
    base = lambda: transformers.BartForConditionalGeneration.from_pretrained(BASE)
    arrays: dict[str, Any] = {f"input.{name}": array for name, array in inputs.items()}
    torch.manual_seed(0)
    for name, options in ADAPTED.items():
        model = peft.get_peft_model(base(), peft.LoraConfig(**options)).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5)
        shutil.rmtree(TARGET / name, ignore_errors=True)
        model.save_pretrained(TARGET / name)
        (TARGET / name / "README.md").unlink()
        config = json.loads((TARGET / name / "adapter_config.json").read_text())
        (TARGET / name / "adapter_config.json").write_text(
            json.dumps(config | dict(base_model_name_or_path="converted"), indent=2) + "\n"
        )
        with torch.no_grad():
            arrays[f"logits.{name}"] = model(**inputs).logits
    written = peft.PeftModel.from_pretrained(base(), TARGET / "written").eval()
    with torch.no_grad():
        arrays["logits.written"] = written(**inputs).logits
        arrays["logits.base"] = base().eval()(**inputs).logits
    versions = {name: importlib.metadata.version(name) for name in ("peft", "transformers", "torch")}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(TARGET / "logits.npz", made_by=np.array(json.dumps(versions)), **arrays)


if __name__ == "__main__":
    write() if sys.argv[1:] == ["write"] else read()
