"""The examples that train: a few steps of each, to a folder that loads.

Those marked `slow` have the parts of `bart-eqx train classify` and `denoise`, which `test_train_command.py` runs.
"""

from pathlib import Path

import pytest

from bart_eqx.text import Classifier, MaskFiller, TextGenerator, Tokenizer
from bart_eqx.training import Training
from examples import distill, finetune_classification, finetune_summarization, pretrain_denoising
from text_support import demo_model, demo_tokenizer, tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of two decoder layers."""
    folder = tmp_path_factory.mktemp("tiny")
    small = dict(vocab_size=359, max_position_embeddings=32, decoder_layers=2)
    TextGenerator(tiny("BartForConditionalGeneration", **small), demo_tokenizer()).save_pretrained(folder)
    return str(folder)


def check(outcome: Training, folder: Path) -> None:
    assert outcome.stopped == "total_steps" and outcome.best_step == 2
    assert Tokenizer.from_pretrained(folder / "model").mask_token == "<mask>"


def test_summaries(tmp_path: Path, source: str) -> None:
    pairs = finetune_summarization.made_pairs(12, seed=0)
    for pair in pairs:
        largest = max(map(int, pair["text"].split()))
        assert pair["summary"] == finetune_summarization.in_words(largest)
    numbers = (0, 12, 40, 85, 100, 302, 999)
    spelled = [TextGenerator(demo_model(), demo_tokenizer())(str(n)).generated_text for n in numbers]
    assert spelled == [finetune_summarization.in_words(n) for n in numbers]
    check(finetune_summarization.finetune(tmp_path, pairs[4:], pairs[:4], source=source, steps=2), tmp_path)
    TextGenerator.from_pretrained(tmp_path / "model")


@pytest.mark.slow
def test_classes(tmp_path: Path, source: str) -> None:
    texts = finetune_classification.made_texts(range(20, 33))
    check(finetune_classification.finetune(tmp_path, texts, texts[:4], source=source, steps=2), tmp_path)
    assert Classifier.from_pretrained(tmp_path / "model").model.config.id2label == ("neither", "ten", "two")


@pytest.mark.slow
def test_denoising(tmp_path: Path) -> None:
    documents = pretrain_denoising.made_documents(20, seed=0)
    config = tiny("BartForConditionalGeneration", vocab_size=359).config
    check(pretrain_denoising.pretrain(tmp_path, documents, config=config, steps=2), tmp_path)
    MaskFiller.from_pretrained(tmp_path / "model")


def test_distillation(tmp_path: Path, source: str) -> None:
    texts = [str(number) for number in range(95, 107)]
    check(distill.distill(tmp_path, texts[4:], texts[:4], source=source, steps=2), tmp_path)
    assert TextGenerator.from_pretrained(tmp_path / "model").model.config.decoder_layers == 1
