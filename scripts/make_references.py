"""Make the stored references of the tests with Hugging Face's own models.

    .venv-oracle/bin/python scripts/make_references.py          # transformers 4.57, Flax
    SOME_ENVIRONMENT/bin/python scripts/make_references.py torch  # transformers 5 and PyTorch

The second needs an environment that the Makefile does not make: `pip install torch transformers`, which on Linux brings
gigabytes of CUDA unless a build for CPU is chosen. Each file records the versions that made it.
"""

import argparse
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


TESTS = Path(__file__).parents[1] / "tests"
TARGET = TESTS / "references"

# Small enough to store the model in every format that Hugging Face writes.
STORED = dict(
    vocab_size=41,
    max_position_embeddings=12,
    d_model=8,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=5,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=7,
    num_labels=3,
)
PAIRS = np.array([[0, 5, 6, 2, 2, 7, 8, 2], [0, 9, 2, 2, 10, 2, 1, 1]])  # <s> A </s></s> B </s>


def versions(*names: str) -> str:
    return json.dumps({name: importlib.metadata.version(name) for name in names})


def save(name: str, arrays: dict[str, Any], made_by: str) -> None:
    path = TARGET / f"{name}.npz"
    np.savez_compressed(path, made_by=np.array(made_by), **arrays)
    print(f"{path.relative_to(TESTS.parent)}  {path.stat().st_size:,} bytes, {len(arrays)} arrays")


def flax_references() -> None:
    """The outputs of every class, and folders as `save_pretrained` writes them."""
    sys.path.insert(0, str(TESTS))
    import jax.numpy as jnp
    import transformers

    from bart_eqx.convert import convert
    from oracle.conftest import hf_model
    from oracle.test_forward import inputs_for
    from support import CLASSES, flatten, randomised, unflatten

    made_by = versions("transformers", "flax", "jax")
    for config_name in ("unequal", "scaled", "untied"):
        for cls in CLASSES:
            reference = hf_model(cls.__name__, config_name)
            inputs = inputs_for(cls.__name__, reference.config)
            out = reference(**inputs, output_hidden_states=True, output_attentions=True)
            arrays = {f"input.{name}": array for name, array in inputs.items()}
            for name, value in out.items():
                # The last layer suffices: an error in any layer shows in it.
                arrays[f"output.{name}"] = np.asarray(value[-1] if isinstance(value, tuple) else value)
            save(f"{cls.__name__}-{config_name}", arrays, made_by)

    model = transformers.FlaxBartForConditionalGeneration(transformers.BartConfig(**STORED), seed=0)
    shapes = {name: array.shape for name, array in flatten(model.params).items()}
    model.params = unflatten({name: jnp.asarray(array) for name, array in randomised(shapes).items()})
    for name, options in {
        "flax-msgpack": dict(),
        "flax-msgpack-sharded": dict(max_shard_size="4kB"),
        "flax-safetensors": dict(safe_serialization=True),
    }.items():
        folder = TARGET / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, **options)
        print(f"{folder.relative_to(TESTS.parent)}  {sorted(path.name for path in folder.iterdir())}")
    for precision in ("fp16", "bf16"):
        folder = TARGET / f"flax-msgpack-{precision}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, params=getattr(model, f"to_{precision}")(model.params))
    source = np.array([[0, 5, 6, 7, 2], [0, 8, 9, 2, 1]], np.int32)
    arrays = dict(input_ids=source, attention_mask=(source != 1).astype(np.int32))
    save("stored-flax", arrays | dict(logits=np.asarray(model(**arrays).logits)), made_by)
    convert(TARGET / "flax-msgpack", TARGET / "converted", overwrite=True)  # read by `torch_references`


def gradient_references() -> None:
    """The gradient of a loss for every parameter. `benchmarks/parity.py` compares with it on an accelerator."""
    sys.path.insert(0, str(TESTS))
    import jax
    import jax.numpy as jnp

    from oracle.conftest import hf_model
    from oracle.test_forward import inputs_for
    from oracle.test_gradients import GAIN
    from support import flatten

    reference = hf_model("BartForConditionalGeneration", "scaled", gain=GAIN)
    inputs = inputs_for("BartForConditionalGeneration", reference.config)
    weights = np.random.default_rng(0).standard_normal(
        (*inputs["decoder_input_ids"].shape, reference.config.vocab_size)
    )
    weights = weights.astype(np.float32)
    loss = lambda params: jnp.mean(jnp.tanh(reference(**inputs, params=params).logits / 4) * weights)
    gradients = flatten(jax.jit(jax.grad(loss))(reference.params))
    arrays: dict[str, Any] = {f"input.{name}": array for name, array in inputs.items()}
    arrays |= {f"gradient.{name}": np.asarray(array) for name, array in gradients.items()}
    save(
        "gradients-scaled", arrays | dict(weights=weights, gain=np.array(GAIN)), versions("transformers", "flax", "jax")
    )


def torch_references() -> None:
    """PyTorch's outputs: of the converted folder, of a classifier, and of a model with three token tables; and the
    folders of the last two as PyTorch saves them, the classifier also in shards.
    """
    import torch
    import transformers

    made_by = versions("transformers", "torch")
    with tempfile.TemporaryDirectory() as scratch:
        # The Flax folder, as bart_eqx converted it.
        folder = TARGET / "converted"
        model = transformers.BartForConditionalGeneration.from_pretrained(folder).eval()
        source = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 9, 2, 1]])
        targets = torch.tensor([[2, 0, 5, 6, 7], [2, 0, 8, 9, 2]])
        mask = (source != 1).long()
        with torch.no_grad():
            logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=targets).logits
        arrays = dict(input_ids=source, attention_mask=mask, decoder_input_ids=targets, logits=logits)

        torch.manual_seed(0)
        classifier = transformers.BartForSequenceClassification(transformers.BartConfig(**STORED)).eval()
        for parameter in classifier.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        pairs = torch.tensor(PAIRS)
        with torch.no_grad():
            arrays |= dict(pairs=pairs, pair_logits=classifier(pairs, attention_mask=(pairs != 1).long()).logits)
        for name, options in {
            "torch-classifier": dict(),
            "torch-classifier-sharded": dict(max_shard_size="4kB"),
        }.items():
            shutil.rmtree(TARGET / name, ignore_errors=True)
            classifier.save_pretrained(Path(scratch) / name, **options)
            shutil.copytree(Path(scratch) / name, TARGET / name)

        untied = transformers.BartForConditionalGeneration(
            transformers.BartConfig(**STORED, tie_word_embeddings=False, forced_eos_token_id=None)
        ).eval()
        for parameter in untied.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        with torch.no_grad():
            out = untied(input_ids=source, attention_mask=mask, decoder_input_ids=targets)
        arrays |= dict(untied_logits=out.logits)
        shutil.rmtree(TARGET / "torch-untied", ignore_errors=True)
        untied.save_pretrained(TARGET / "torch-untied")
    save("stored-torch", {name: np.asarray(array) for name, array in arrays.items()}, made_by)


def loss_references() -> None:
    """The losses of PyTorch's classes, over the folders that `torch_references` saved."""
    import torch
    import transformers

    text = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1], [0, 11, 12, 13, 2, 1]])
    inputs = dict(input_ids=text, attention_mask=(text != 1).long())
    numbers = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.5, -0.5], [3.0, 0.25, 1.0]])
    arrays: dict[str, Any] = dict(inputs)

    folder = TARGET / "torch-classifier"
    for problem, labels in {
        "single_label_classification": torch.tensor([2, -100, 0]),
        "multi_label_classification": (numbers > 0.4).float(),
        "regression": numbers,
    }.items():
        model = transformers.BartForSequenceClassification.from_pretrained(folder, problem_type=problem).eval()
        with torch.no_grad():
            arrays |= {f"{problem}.labels": labels, f"{problem}.loss": model(**inputs, labels=labels).loss}

    torch.manual_seed(1)
    answerer = transformers.BartForQuestionAnswering.from_pretrained(folder).eval()
    for parameter in answerer.qa_outputs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    arrays |= {f"qa_outputs.{name}": parameter.detach() for name, parameter in answerer.qa_outputs.named_parameters()}
    for name, starts, ends in (("inside", [1, 0, 2], [3, 2, 2]), ("beyond", [1, 6, 2], [3, 9, 4])):
        positions = dict(start_positions=torch.tensor(starts), end_positions=torch.tensor(ends))
        with torch.no_grad():
            arrays |= {f"{name}.{field}": value for field, value in positions.items()}
            arrays |= {f"{name}.loss": answerer(**inputs, **positions).loss}

    model = transformers.BartForConditionalGeneration.from_pretrained(TARGET / "torch-untied").eval()
    labels = torch.tensor([[0, 7, 8, 9, 2], [0, 2, -100, -100, -100], [4, 5, 6, 2, -100]])
    with torch.no_grad():
        out = model(**inputs, labels=labels)
    smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(out.logits.reshape(-1, 41), labels.reshape(-1))
    arrays |= {"seq2seq.labels": labels, "seq2seq.loss": out.loss, "seq2seq.smoothed": smoothed}
    save("losses-torch", {k: np.asarray(v) for k, v in arrays.items()}, versions("transformers", "torch"))


def activation_references() -> None:
    """Every entry of transformers' `ACT2FN`, in float64; NaN for those with parameters of their own."""
    import torch
    from transformers.activations import ACT2FN

    x = torch.linspace(-12, 12, 193, dtype=torch.float64)
    arrays: dict[str, Any] = {"x": x.numpy()}
    with torch.no_grad():
        for name in ACT2FN:
            function = ACT2FN[name]
            parametric = any(True for _ in function.parameters())
            arrays[f"output.{name}"] = np.full(x.shape, np.nan) if parametric else function(x).numpy()
    save("activations", arrays, versions("transformers", "torch"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", nargs="?", choices=["flax", "torch"], default="flax")
    TARGET.mkdir(exist_ok=True)
    if parser.parse_args().framework == "flax":
        flax_references()
        gradient_references()
    else:
        torch_references()
        activation_references()
        loss_references()


if __name__ == "__main__":
    main()
