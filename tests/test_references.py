"""Every class equals stored outputs of Hugging Face's Flax. `make test-oracle` compares much more, live."""

from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest

import bart_eqx
from support import CLASSES, CONFIGS, random_model, relative_error


REFERENCES = Path(__file__).parent / "references"

# Measured: at most 1.3e-6. See `tests/oracle/test_forward.py`, whose limit this is.
LIMIT = 5e-6


@pytest.mark.parametrize("config_name", ["unequal", "scaled", "untied"])
@pytest.mark.parametrize("cls", CLASSES)
def test_stored_outputs(cls: Any, config_name: str) -> None:
    stored = np.load(REFERENCES / f"{cls.__name__}-{config_name}.npz")
    model = random_model(cls, bart_eqx.BartConfig(**CONFIGS[config_name]))
    inputs = {name.removeprefix("input."): stored[name] for name in stored if name.startswith("input.")}
    wanted = {name.removeprefix("output."): stored[name] for name in stored if name.startswith("output.")}
    run = eqx.filter_jit(lambda model, inputs: model(**inputs, output_hidden_states=True, output_attentions=True))
    out = run(model, inputs)
    assert len(wanted) >= 3
    for name, value in wanted.items():
        got = getattr(out, name)
        assert relative_error(got[-1] if isinstance(got, tuple) else got, value) <= LIMIT, name


def test_pytorch_reads_what_we_convert() -> None:
    """The logits of transformers 5 with PyTorch, which loaded `tests/references/converted`, equal ours."""
    stored = np.load(REFERENCES / "stored-torch.npz")
    model = eqx.filter_jit(bart_eqx.from_pretrained(REFERENCES / "converted", bart_eqx.BartForConditionalGeneration))
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    assert relative_error(model(**inputs).logits, stored["logits"]) <= LIMIT


def test_three_token_tables() -> None:
    """A model with untied embeddings, saved by transformers 5, has the same logits here."""
    stored = np.load(REFERENCES / "stored-torch.npz")
    loaded = bart_eqx.from_pretrained(REFERENCES / "torch-untied", bart_eqx.BartForConditionalGeneration)
    model = eqx.filter_jit(loaded)
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    assert relative_error(model(**inputs).logits, stored["untied_logits"]) <= LIMIT


@pytest.mark.parametrize("folder", ["torch-classifier", "torch-classifier-sharded"])
def test_we_read_what_pytorch_writes(folder: str) -> None:
    """Logits for pairs, with three `</s>` each, equal PyTorch's."""
    stored = np.load(REFERENCES / "stored-torch.npz")
    model = bart_eqx.from_pretrained(REFERENCES / folder)
    assert isinstance(model, bart_eqx.BartForSequenceClassification)
    pairs = stored["pairs"]
    for run in (model, eqx.filter_jit(model)):
        assert relative_error(run(pairs, (pairs != 1).astype(int)).logits, stored["pair_logits"]) <= LIMIT
