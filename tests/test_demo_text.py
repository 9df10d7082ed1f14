"""`demo-text`, the checkpoint in the package that reads and writes English. Its figures are those of the script."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

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
    (text,) = filler.infill("This package contains the header <mask> that are needed to compile programs.")
    assert text.spans is not None and text.spans[0].text.strip() == "files"


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
