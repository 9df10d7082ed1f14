"""Stored references of `examples/whisper`: a small random Whisper, and what PyTorch computes with it.

    python scripts/make_whisper_references.py write    # in the project's environment: the folder, by our converter
    python scripts/make_whisper_references.py          # in one with torch and transformers 5, which has no JAX

The second needs `pip install torch transformers`; where that would bring CUDA, take PyTorch's wheels for CPU.
"""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


ROOT = Path(__file__).parents[1]
TARGET = ROOT / "tests/references/whisper"
CASES: dict[str, dict[str, Any]] = {
    "greedy": dict(language="de", task="translate"),
    "greedy-detected": dict(task="transcribe"),
    "greedy-timestamps": dict(language="en", task="transcribe", return_timestamps=True),
    "beams": dict(language="en", task="transcribe", num_beams=4),
    "beams-timestamps": dict(language="de", task="transcribe", return_timestamps=True, num_beams=4),
}


def write() -> None:
    sys.path[:0] = [str(ROOT / name) for name in (".", "src", "tests")]
    from examples.whisper.checkpoint import convert
    from examples.whisper.config import WhisperConfig
    from support import write_file
    from whisper_cases import CONFIGS, GENERATION, parameters

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_file(folder / "flax_model.msgpack", parameters(WhisperConfig(**CONFIGS["distilled"]), seed=2))
        (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **CONFIGS["distilled"]}))
        (folder / "generation_config.json").write_text(json.dumps(GENERATION))
        convert(folder, TARGET)


def read() -> None:
    import torch
    import transformers
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

    model = transformers.WhisperForConditionalGeneration.from_pretrained(TARGET).eval()
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6, 5, 14)).astype(np.float32)
    target = rng.integers(0, 64, (6, 7))
    arrays: dict[str, Any] = dict(features=features, target=target)
    inputs = dict(input_features=torch.tensor(features))
    with torch.no_grad():
        out = model(**inputs, decoder_input_ids=torch.tensor(target))
        arrays |= dict(logits=out.logits, encoder_states=out.encoder_last_hidden_state)
        arrays["languages"] = model.detect_language(**inputs, generation_config=model.generation_config)
        for case, options in CASES.items():
            result = model.generate(
                **inputs,
                **options,
                max_new_tokens=12,
                return_dict_in_generate=True,
                output_scores=True,
                force_unique_generate_call=True,
            )
            arrays[f"tokens.{case}"] = result.sequences
            if "num_beams" in options:
                arrays[f"scores.{case}"] = result.sequences_scores

    # Rows of any tokens, half of them timestamps, after a prompt of 3.
    tokens = np.where(rng.random((80, 8)) < 0.5, rng.integers(47, 64, (80, 8)), rng.integers(0, 40, (80, 8)))
    logits = 2 * rng.standard_normal((80, 64)).astype(np.float32)
    rules = WhisperTimeStampLogitsProcessor(model.generation_config, begin_index=3)
    arrays |= {"rules.tokens": tokens, "rules.logits": logits}
    arrays["rules.scores"] = np.concatenate(  # of ten rows each with 3 to 8 tokens
        [
            rules(torch.tensor(tokens[rows : rows + 10, :length]), torch.tensor(logits[rows : rows + 10]))
            for rows, length in zip(range(0, 80, 10), (3, 3, 4, 4, 5, 6, 7, 8), strict=True)
        ]
    )
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch")}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(TARGET / "pytorch.npz", made_by=np.array(json.dumps(versions)), **arrays)
    for name, array in arrays.items():
        print(name, array.shape, array.tolist() if name.startswith(("tokens", "languages")) else "")


if __name__ == "__main__":
    write() if sys.argv[1:] == ["write"] else read()
