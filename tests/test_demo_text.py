"""`demo-text`, the checkpoint in the package that reads and writes English."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import bart_eqx
import pytest
from bart_eqx.text import MaskFiller, Summarizer, Tokenizer


SCRIPT = pathlib.Path(__file__).parents[1] / "scripts/train_text_demo.py"


@pytest.mark.slow
def test_it_summarises_and_fills_held_out_descriptions(tmp_path):
    """The figures of issue and documentation, on 300 packages that no source of the training has."""
    spec = importlib.util.spec_from_file_location("train_text_demo", SCRIPT)
    script = sys.modules["train_text_demo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    if shutil.which("apt-get") is None:
        pytest.skip("The texts are Debian's, and there is no apt-get.")
    try:
        lists = script.download(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"The texts are Debian's, and `apt-get update` has failed: {error}")
    packages = script.split(script.read_packages(lists))
    model = bart_eqx.from_pretrained("demo-text", bart_eqx.BartForConditionalGeneration)
    tokenizer = Tokenizer.from_pretrained("demo-text")
    figures = script.measure(model, tokenizer, packages.test[: script.SAMPLE], script.frequent_words(packages.train))
    print(figures)
    assert figures.rouge1 >= figures.lead_rouge1 + 0.08
    assert figures.rougeL >= figures.lead_rougeL + 0.10
    assert figures.filled >= 2 * figures.frequent > 0
