"""How `make test-hub` checks published values: on a model of ours that is laid out as those on the Hub are."""

import dataclasses
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from bart_eqx.text import Classifier, MaskFiller
from hub import published
from hub.published import (
    PUBLISHED,
    Article,
    Fills,
    Generates,
    HiddenStates,
    Ids,
    Labels,
    Logits,
    PaddedPrefix,
    articles,
    compare_formats,
    verify,
    why_unreachable,
)
from hub_server import Hub
from text_support import BART_TOKENIZER, tiny, tokenizer


CARE = (0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2)
PADDED = (0, 31414, 232, 328, 740, 1140, 69, 46078, 1588, 2, 1)
UN = "UN Chief Says There Is No <mask> in Syria"
SHORT: dict[str, Any] = dict(num_beams=1, max_new_tokens=6)
PAIRS = (("BART is a seq2seq model.", "BART is not sequence to sequence."), ("Hello", "world"))


def laid_out(model: Any, folder: Path) -> Path:
    """As facebook/bart-base is: Flax's and PyTorch's weights, vocab.json and merges.txt."""
    bart_eqx.save_pretrained(model, folder, to="flax")
    bart_eqx.save_pretrained(model, folder.with_name("pytorch"))
    shutil.copy(folder.with_name("pytorch") / "model.safetensors", folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(BART_TOKENIZER / name, folder)
    return folder


def written(model: Any) -> Any:
    batch = tokenizer()([UN], split_special_tokens=False)
    return tokenizer().decode(bart_eqx.generate(model, batch.input_ids, batch.attention_mask, **SHORT).sequences)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid_out(tiny("BartForConditionalGeneration"), tmp_path_factory.mktemp("generation") / "repository")


@pytest.fixture(scope="module")
def holding(folder: Path) -> tuple[Any, ...]:
    """What the model is and writes, found by other calls than those of the checks."""
    model = bart_eqx.from_pretrained(folder, bart_eqx.BartForConditionalGeneration)
    states = np.asarray(eqx.filter_jit(model.model)(jnp.array(CARE)).last_hidden_state[:3, :3])
    likeliest = tuple(each.token_str for each in MaskFiller(model, tokenizer())(" I went to the <mask>.", top_k=5))
    (ending,) = written(model)
    return (
        Ids("Hello world!", (0, 31414, 232, 328, 2)),
        HiddenStates(CARE, states.tolist()),
        Fills(" I went to the <mask>.", likeliest),
        Fills(" I went to the <mask>.", likeliest[2:3], any_order=True),
        Generates((UN,), (ending.strip()[-10:],), SHORT),
    )


def test_what_holds_is_accepted(folder: Path, holding: tuple[Any, ...]) -> None:
    verify(folder, bart_eqx.BartForConditionalGeneration, holding)


def test_what_does_not_hold_is_refused(folder: Path, holding: tuple[Any, ...]) -> None:
    """Each check alone, with a value that is as near to the right one as the check can tell."""
    ids, states, fills, some, writes = (dataclasses.asdict(check) for check in holding)
    values = np.array(states["values"])
    values[2, 1] += 1.5e-3
    wrong = [
        Ids(ids["text"], ids["ids"][:-1]),
        HiddenStates(CARE, values.tolist()),
        Fills(fills["text"], fills["tokens"][1::-1] + fills["tokens"][2:]),
        Fills(some["text"], (*some["tokens"], " unlikely"), any_order=True),
        Generates((UN,), (writes["endings"][0] + ".",), SHORT),
    ]
    model = bart_eqx.from_pretrained(folder, bart_eqx.BartForConditionalGeneration)
    for check in wrong:
        with pytest.raises(AssertionError):
            check(model, tokenizer())


def test_a_classifier() -> None:
    model = tiny("BartForSequenceClassification")
    ids = jnp.array((CARE, PADDED))
    first = eqx.filter_jit(model)(ids, ids != 1).logits[0]
    Logits((CARE, PADDED), first.tolist())(model, tokenizer())
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 3"):
        Logits((CARE, PADDED), (first + jnp.array([0, 1.5e-3, 0])).tolist())(model, tokenizer())
    texts = [list(side) for side in zip(*PAIRS, strict=True)]
    classes = [model.config.id2label.index(found[0].label) for found in Classifier(model, tokenizer())(*texts)]
    Labels(PAIRS, classes)(model, tokenizer())
    with pytest.raises(AssertionError):
        Labels(PAIRS, [classes[0], (classes[1] + 1) % 3])(model, tokenizer())


def test_a_padded_prefix() -> None:
    """The tokens are those that transformers 5.24 with PyTorch generated from this prefix, with these weights."""
    model = tiny("BartForConditionalGeneration")
    pytorch = str(tokenizer().decode([43841, 34336, 34336, 45920, 34693]))
    check = PaddedPrefix(UN, 3, pytorch, SHORT)
    check(model, tokenizer())
    without_padding = str(tokenizer().decode([40204, 45920, 45920, 45920, 36785]))
    with pytest.raises(AssertionError):
        dataclasses.replace(check, pytorch=without_padding)(model, tokenizer())


def test_articles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from a test of transformers without running it."""
    file = tmp_path / "test_modeling_bart.py"
    first, second = UN[:25], UN[25:]
    file.write_text(
        f"1 / 0\ndef test():\n    UN_ARTICLE = (\n        {first!r}\n        {second!r}\n    )\n    N = 1\n"
    )
    assert articles(file.as_uri()) == dict(UN_ARTICLE=UN)
    monkeypatch.setattr(published, "ARTICLES", file.as_uri())
    model = tiny("BartForConditionalGeneration")
    Generates((Article("UN_ARTICLE"),), written(model), SHORT)(model, tokenizer())


def test_formats_are_compared(folder: Path, tmp_path: Path) -> None:
    read, left = compare_formats(folder, bart_eqx.BartForConditionalGeneration)
    assert read == ["flax_model.msgpack", "model.safetensors"]
    assert len(left) == 1 and "has no weights of the format 'pytorch'" in left[0]
    model = bart_eqx.from_pretrained(folder, bart_eqx.BartForConditionalGeneration)
    where = lambda model: model.model.encoder.layers[0].fc1.bias
    changed = eqx.tree_at(where, model, where(model).at[3].add(1e-6))
    other = laid_out(changed, tmp_path / "repository")
    shutil.copy(folder / "flax_model.msgpack", other)
    with pytest.raises(AssertionError, match=r"differ in .model.encoder.layers\[0\].fc1.bias$"):
        compare_formats(other, bart_eqx.BartForConditionalGeneration)


def test_from_the_hub(folder: Path, holding: tuple[Any, ...], tmp_path: Path) -> None:
    """All of it by the name of a repository, in a process of its own: the client reads its settings at its import."""
    (tmp_path / "checks").write_bytes(pickle.dumps(holding[:1]))
    code = (
        "import pickle, sys, bart_eqx; from pathlib import Path; from hub.published import compare_formats, verify;"
        "checks = pickle.loads(Path('checks').read_bytes()); cls = bart_eqx.BartForConditionalGeneration;"
        "verify('facebook/bart-base', cls, checks); print(compare_formats('facebook/bart-base', cls)[0])"
    )
    with Hub({"facebook/bart-base": {"main": folder}}) as hub:
        assert why_unreachable(hub.url) is None  # it answers 404
        variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        variables |= dict(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        process = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=variables | dict(PYTHONPATH=path),
            timeout=60,
        )
        assert process.stdout == "['flax_model.msgpack', 'model.safetensors']\n", process.stderr
        assert {"flax_model.msgpack", "model.safetensors", "vocab.json"} <= set(hub.downloads())


def test_without_a_network() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert "refused" in (why_unreachable(f"http://127.0.0.1:{nobody.getsockname()[1]}") or "")


def test_what_is_published() -> None:
    """Each repository has something to check, and each kind of check is used."""
    kinds = {type(check) for _, checks in PUBLISHED.values() for check in checks}
    assert kinds == {Ids, HiddenStates, Logits, Labels, Fills, Generates, PaddedPrefix}
    assert len(PUBLISHED) == 6 and all(checks for _, checks in PUBLISHED.values())
