"""Check that transformers 5 loads the folders that the converter writes, with outputs equal to the last bit.

    SOME_ENVIRONMENT/bin/python scripts/check_pytorch.py .venv/bin/python

Runs in an environment with torch and transformers 5. The argument is an interpreter that has bart_eqx, which converts;
pickles are tested if it has torch too. All five classes, tied and with three token tables, in float32, float16 and
bfloat16; safetensors in one file and in shards, and pytorch_model.bin.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers


CLASSES = ("Model", "ForConditionalGeneration", "ForSequenceClassification", "ForQuestionAnswering", "ForCausalLM")
TINY = dict(
    vocab_size=97,
    max_position_embeddings=23,
    d_model=30,
    encoder_layers=1,
    encoder_attention_heads=5,
    encoder_ffn_dim=17,
    decoder_layers=2,
    decoder_attention_heads=3,
    decoder_ffn_dim=13,
    num_labels=2,
    forced_eos_token_id=None,
)


def save(model: Any, folder: Path, how: str) -> None:
    model.save_pretrained(folder, **(dict(max_shard_size="20kB") if how == "sharded" else {}))
    if how == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def outputs(model: Any) -> list[torch.Tensor]:
    ids = torch.tensor([[0, 5, 6, 2, 2, 7, 8, 2], [0, 9, 2, 2, 10, 2, 1, 1]])
    with torch.no_grad():
        out = model.eval()(input_ids=ids, attention_mask=(ids != 1).long(), use_cache=False)
    return [out[name] for name in ("logits", "start_logits", "end_logits", "last_hidden_state") if name in out]


def main(python: str) -> None:
    has_torch = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0
    forms = ["whole", "sharded", *(["pickle"] if has_torch else [])]
    count = 0
    for name, tied, dtype, how in itertools.product(
        CLASSES, (True, False), (torch.float32, torch.float16, torch.bfloat16), forms
    ):
        with tempfile.TemporaryDirectory() as scratch:
            cls = getattr(transformers, f"Bart{name}")
            model = cls(transformers.BartConfig(**TINY, tie_word_embeddings=tied)).to(dtype)
            torch.manual_seed(0)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
            source, target = Path(scratch) / "source", Path(scratch) / "target"
            save(model, source, how)
            command = [python, "-m", "bart_eqx.convert", str(source), "-o", str(target)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            again, report = cls.from_pretrained(target, dtype=dtype, output_loading_info=True)
            wrong = {kind: names for kind, names in report.items() if names and kind != "error_msgs"}
            # A tied name is missing from every file, and a base model has no head: nothing else may differ.
            assert not wrong, (name, tied, dtype, how, wrong)
            for ours, theirs in zip(outputs(again), outputs(model), strict=True):
                assert torch.equal(ours, theirs), (name, tied, dtype, how)
        count += 1
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {count} conversions, all outputs equal")


if __name__ == "__main__":
    main(sys.argv[1])
