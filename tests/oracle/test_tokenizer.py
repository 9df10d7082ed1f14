"""Ids, masks and offsets equal those of transformers 4.57's pure-Python BartTokenizer, for 5,000 texts and pairs."""

import functools
import random
from pathlib import Path

import numpy as np
import transformers

from bart_eqx.text import Tokenizer
from tokenizer_cases import cases, python_encoding


FOLDER = Path(__file__).parents[1] / "data" / "bart-tokenizer"


@functools.cache
def reference() -> transformers.BartTokenizer:
    return transformers.BartTokenizer(str(FOLDER / "vocab.json"), str(FOLDER / "merges.txt"))


def test_five_thousand_texts() -> None:
    tokenizer = Tokenizer.from_pretrained(FOLDER)
    for case in cases(5000):
        pairs = None if case.pair is None else [case.pair]
        (row,) = tokenizer.tokenize(
            [case.text], pairs, max_length=case.max_length, split_special_tokens=case.split_special_tokens
        )
        ids, offsets, truncated = python_encoding(reference(), case)
        assert row.input_ids == ids, case
        assert row.offsets.tolist() == [list(pair) for pair in offsets], case
        assert row.truncated == truncated, case


def test_separators_before_a_mask() -> None:
    """The one difference: Python takes U+001C to U+001F for spaces, which `<mask>` swallows; Unicode does not."""
    tokenizer = Tokenizer.from_pretrained(FOLDER)
    (row,) = tokenizer.tokenize(["a\x1c <mask>"], split_special_tokens=False)
    assert reference()("a\x1c <mask>").input_ids == [0, 102, 50264, 2]
    assert row.input_ids == [0, 102, 50136, 50264, 2]


def test_batches_and_masks() -> None:
    """Padded batches, of texts and of pairs."""
    tokenizer = Tokenizer.from_pretrained(FOLDER)
    for pairs in (False, True):
        chosen = [case for case in cases(2000) if (case.pair is not None) == pairs]
        for start in range(0, len(chosen), 64):
            part = chosen[start : start + 64]
            texts, others = [case.text for case in part], [case.pair or "" for case in part] if pairs else None
            wanted = reference()(texts, others, padding=True, verbose=False, return_tensors="np")
            got = tokenizer(texts, others, split_special_tokens=False)
            np.testing.assert_array_equal(got.input_ids, wanted.input_ids)
            np.testing.assert_array_equal(got.attention_mask, wanted.attention_mask)


def test_bart_base_chinese(tmp_path: Path) -> None:
    """BertTokenizer's files: characters, words with accents and punctuation, control characters, masks, pairs."""
    characters = [chr(c) for c in (*range(0x4E00, 0x4E80), *range(33, 127))]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{c}" for c in characters),
        "hello",
        "##世",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n", "utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    slow = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    rng = random.Random(1)
    alphabet = [
        *characters,
        "é",
        "Ü",
        " ",
        "  ",
        "\n",
        "\t",
        "\u3000",
        "\x00",
        "\ufffd",
        "😀",
        "[MASK]",
        " [SEP] ",
        "hello",
    ]
    for _ in range(1000):
        texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 20))) for _ in range(rng.randint(1, 2))]
        wanted = slow(*texts).input_ids
        assert tokenizer(*texts, split_special_tokens=False).input_ids.tolist() == wanted, texts


def test_decoding() -> None:
    """Whole texts, and ids at random, whose bytes are mostly no UTF-8."""
    tokenizer = Tokenizer.from_pretrained(FOLDER)
    rng = random.Random(0)
    rows = [reference()(case.text, split_special_tokens=True, verbose=False).input_ids for case in cases(1000)]
    rows += [[rng.randrange(4, 50260) for _ in range(rng.randint(0, 30))] for _ in range(2000)]
    options = dict(skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert tokenizer.decode(rows) == reference().batch_decode(rows, **options)
