"""`demo-text`, the checkpoint in the package that reads and writes English. Its figures are those of the script."""

import collections
import importlib.util
import pathlib
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import pytest

import bart_eqx
from bart_eqx.text import MaskFiller, Summarizer, Tokenizer


SCRIPT = pathlib.Path(__file__).parents[1] / "scripts/train_text_demo.py"
DEVELOPMENT = (
    "libmarble is a small library for reading and writing marble archives, a format in which many old games keep their "
    "pictures and sounds. It can list the files of an archive, extract them, and build new archives. This package "
    "contains the header files and static library that are needed to compile programs which use libmarble."
)


def test_it_summarises_and_fills() -> None:
    model = bart_eqx.from_pretrained("demo-text", bart_eqx.BartForConditionalGeneration, dtype=jnp.float32)
    tokenizer = Tokenizer.from_pretrained("demo-text")
    summary = Summarizer(model, tokenizer)(DEVELOPMENT).summary_text
    assert summary == "library for reading and writing marble archives - development files"
    filler = MaskFiller(model, tokenizer)
    (editor, *_) = filler("It is a fast and easy to use text <mask> for the GNOME desktop.")
    assert editor.token_str == " editor"
    infilled = {
        "This package contains the header <mask> that are needed to compile programs.": "files",
        "This package <mask> Python 3 version of the module.": "contains the",
        "Qt's <mask> is its rich set of widgets that provide standard GUI functionality.": "primary feature",
    }
    for (text, span), (output,) in zip(infilled.items(), filler.infill([*infilled]), strict=True):
        assert output.sequence == text.replace("<mask>", span) and output.spans is not None
        (found,) = output.spans
        assert (found.text, output.sequence[found.start : found.end]) == (span, span)


def masked_spans(packages: Sequence[Any], number: int) -> list[tuple[str, str]]:
    """Spans of one to three words, of sentences of 8 to 16 words of different packages; the sentences with `<mask>`."""
    masked = []
    for package in packages:
        words = next((s.split() for s in re.split(r"(?<=[.]) ", package.text) if 8 <= len(s.split()) <= 16), None)
        if words is not None:
            draw = random.Random(package.name)
            length = draw.randint(1, 3)
            start = draw.randrange(1, len(words) - length)
            text = " ".join([*words[:start], "<mask>", *words[start + length :]])
            masked.append((" ".join(words[start : start + length]), text))
    return masked[:number]


def check_infilling(filler: MaskFiller, masked: Sequence[tuple[str, str]], frequent: Mapping[int, str]) -> None:
    """Whatever stands around a mask is kept, or there are no spans; and of those that are found, more are right than if
    each mask were the most frequent words of the texts, although those know how many words there are."""
    kept = right = 0
    for (span, text), (output,) in zip(masked, filler.infill([text for _, text in masked]), strict=True):
        if output.spans is None:
            continue
        (found,) = output.spans
        before, after = text.split("<mask>")
        assert output.sequence[: found.start].strip() == before.strip()
        assert output.sequence[found.start : found.end] == found.text
        assert output.sequence[found.end :].strip() == after.strip()
        kept, right = kept + 1, right + (found.text == span)
    chance = sum(frequent[len(span.split())] == span for span, _ in masked)
    assert kept >= 0.6 * len(masked) and right >= 2 * chance + 3, (kept, right, chance, len(masked))


@pytest.mark.slow
def test_held_out_packages(tmp_path: pathlib.Path) -> None:
    """Three hundred, of sources that were not in training; and three hundred, each of another source."""
    if shutil.which("apt-get") is None:
        pytest.skip("The texts are Debian's, and there is no apt-get.")
    spec = importlib.util.spec_from_file_location("train_text_demo", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = sys.modules["train_text_demo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    try:
        lists = script.download(tmp_path)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"The texts are Debian's, and apt-get cannot bring them: {error}")
    packages = script.split(script.read_packages(lists))
    model = bart_eqx.from_pretrained("demo-text", bart_eqx.BartForConditionalGeneration)
    tokenizer = Tokenizer.from_pretrained("demo-text")
    frequent = script.frequent_words(packages.train)
    for sample in (packages.test, script.one_of_each_source(packages.test)):
        figures = script.measure(model, tokenizer, sample[: script.SAMPLE], frequent)
        assert figures.rouge1 >= figures.lead_rouge1 + 0.08, figures
        assert figures.rougeL >= figures.lead_rougeL + 0.10, figures
        assert figures.filled >= 2 * figures.frequent > 0, figures
        check_infilling(MaskFiller(model, tokenizer), masked_spans(sample, script.SAMPLE), _frequent(packages.train))


def _frequent(packages: Sequence[Any]) -> dict[int, str]:
    """The most frequent of such spans of one word, of two and of three."""
    spans = [span for span, _ in masked_spans(packages, len(packages))]
    of_length = lambda length: (span for span in spans if len(span.split()) == length)
    return {length: collections.Counter(of_length(length)).most_common(1)[0][0] for length in (1, 2, 3)}
