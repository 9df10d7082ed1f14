"""The tokenizer: stored references, files of every layout, batches, bad texts, damaged files.

`tests/oracle/test_tokenizer.py` compares 5,000 texts with pure Python, live.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from bart_eqx.checkpoint.errors import (
    CheckpointError,
    ConfigurationError,
    DamagedFileError,
    SourceNotFoundError,
    TargetError,
    UnsupportedCheckpointError,
)
from bart_eqx.convert import convert
from bart_eqx.text import Tokenizer
from tokenizer_cases import cases


HERE = Path(__file__).parent
FOLDER = HERE / "data" / "bart-tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(FOLDER)


def test_stored_references(tokenizer: Tokenizer) -> None:
    """Ids, offsets and dropped tokens of 500 texts and pairs, from transformers 4.57's pure-Python BartTokenizer."""
    stored = np.load(HERE / "references" / "tokenizer.npz")
    stops = np.cumsum(stored["lengths"])
    assert len(stops) == 500
    for case, start, stop, truncated in zip(cases(500), [0, *stops], stops, stored["truncated"], strict=False):
        pairs = None if case.pair is None else [case.pair]
        split = case.split_special_tokens
        batch = tokenizer([case.text], pairs, max_length=case.max_length, split_special_tokens=split)
        np.testing.assert_array_equal(batch.input_ids[0], stored["ids"][start:stop], str(case))
        np.testing.assert_array_equal(batch.offsets[0], stored["offsets"][start:stop], str(case))
        assert batch.truncated.tolist() == [truncated]


def test_a_batch(tokenizer: Tokenizer) -> None:
    batch = tokenizer(["Hello world", "a"], ["b", "c d 😀"])
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int32
    assert batch.input_ids.tolist() == [[0, 31414, 232, 2, 2, 428, 2, 1, 1], [0, 102, 2, 2, 438, 385, 17841, 7471, 2]]
    assert batch.attention_mask.tolist() == [[1] * 7 + [0] * 2, [1] * 9]
    assert batch.sequence_ids.tolist() == [[-1, 0, 0, -1, -1, 1, -1, -1, -1], [-1, 0, -1, -1, 1, 1, 1, 1, -1]]
    assert batch.offsets[0].tolist() == [[0, 0], [0, 5], [6, 11], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert batch.offsets[1, 6:8].tolist() == [[4, 5], [4, 5]]  # two halves of one character
    assert tokenizer(["a", "b c"], pad_to_multiple_of=8).input_ids.shape == (2, 8)


def test_one_text_has_no_batch_axis(tokenizer: Tokenizer) -> None:
    batch = tokenizer("Hello world", "a", max_length=6)
    assert batch.input_ids.tolist() == [0, 31414, 2, 2, 102, 2]
    assert batch.offsets.shape == (6, 2) and batch.sequence_ids.shape == (6,)
    assert batch.truncated.shape == () and batch.truncated == 1
    assert tokenizer([]).input_ids.shape == (0, 0) and tokenizer([]).offsets.shape == (0, 0, 2)


@pytest.mark.parametrize(
    ["truncation", "first", "second"],
    [("longest_first", 3, 2), (True, 3, 2), ("only_first", 1, 4), ("only_second", 5, 0)],
)
def test_truncation(tokenizer: Tokenizer, truncation: Any, first: int, second: int) -> None:
    batch = tokenizer("a b c d e", "f g h i", max_length=9, truncation=truncation)
    sides = batch.sequence_ids.tolist()
    assert (sides.count(0), sides.count(1), int(batch.truncated)) == (first, second, 4)


def test_truncation_that_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="^The text 'a b c d' has 2 tokens more than fit"):
        tokenizer(["a", "a b c d"], max_length=4, truncation=False)
    with pytest.raises(ValueError, match=f"^The pair 'a', '{'b ' * 30}'... has 47 tokens more than fit"):
        tokenizer("a", "b " * 50 + "b", max_length=9, truncation=False)
    with pytest.raises(ValueError, match="^The pair 'a b c d e f', 'g' does not fit even without its second text"):
        tokenizer("a b c d e f", "g", max_length=6, truncation="only_second")
    with pytest.raises(ValueError, match="is for pairs"):
        tokenizer("a b c d e f", max_length=6, truncation="only_second")
    with pytest.raises(ValueError, match="`max_length` must be at least 4, the special tokens. Got 3"):
        tokenizer("a", "b", max_length=3)


def test_special_tokens_in_a_text_are_text(tokenizer: Tokenizer) -> None:
    text = "a</s> <mask> b"
    assert not {2, 50264} & set(tokenizer(text).input_ids.tolist()[1:-1])
    assert tokenizer(text, split_special_tokens=False).input_ids.tolist() == [0, 102, 2, 50264, 741, 2]
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode(tokenizer("a <mask> b", split_special_tokens=False).input_ids) == "a b"


def test_a_prefix(tokenizer: Tokenizer) -> None:
    """It is tokenised with the text, and offsets are those of the text alone."""
    plain, prefixed = tokenizer("Hello world"), tokenizer("Hello world", prefix=" ")
    assert prefixed.input_ids.tolist() == [0, 20920, 232, 2] != plain.input_ids.tolist()
    assert prefixed.offsets.tolist() == plain.offsets.tolist()
    assert tokenizer("b", prefix="a").offsets.tolist()[-2] == [0, 1]


def test_decoding(tokenizer: Tokenizer) -> None:
    rows = [[0, 31414, 232, 2, 1, 1], [0, 2, 1, 1, 1, 1]]
    assert tokenizer.decode(rows) == tokenizer.decode(np.array(rows)) == ["Hello world", ""]
    assert tokenizer.decode(rows[0]) == tokenizer.decode(np.array(rows[0])) == "Hello world"
    assert tokenizer.decode(rows[0], skip_special_tokens=False) == "<s>Hello world</s><pad><pad>"
    assert tokenizer.decode([]) == "" and tokenizer.decode(np.zeros((0, 3), int)) == []
    assert tokenizer.decode([17841]) == " \ufffd"  # a space, and half a character
    text = " Spaces , and punctuation . Aren't they kept ? \n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    for bad in ([50265], [[5], [-100]], [[[5]]]):
        with pytest.raises(ValueError, match=r"must be \[tokens\] or .* 0 to 50264. Got"):
            tokenizer.decode(bad)


@pytest.mark.parametrize(
    ["text", "says"],
    [
        ("a\ud800b", r"The text 'a\\ud800b' has a lone surrogate, '\\ud800', at character 1"),
        ("😀\udfff", r"The text '😀\\udfff' has a lone surrogate, '\\udfff', at character 1"),
        ("a" * (2**23 + 1), r"The text 'a{60}'... has 8,388,609 characters, and at most 8,388,608"),
    ],
)
def test_texts_that_are_refused(tokenizer: Tokenizer, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tokenizer(["fine", text])
    with pytest.raises(ValueError, match=says.replace("texts", "pairs")):
        tokenizer(["a", "b"], ["fine", text])


def test_texts_that_are_taken(tokenizer: Tokenizer) -> None:
    for text in (
        "",
        "\x00",
        "a\x00b",
        " ",
        "\n",
        "\U0010ffff",
        "\ufffe",
        "a" * 100_000,
        " " * 100_000,
        "\t\n" * 50_000,
    ):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_arguments_that_are_refused(tokenizer: Tokenizer) -> None:
    anything: Any = tokenizer
    with pytest.raises(TypeError):
        anything(3)
    with pytest.raises(TypeError):
        anything.tokenize(["a", None])
    with pytest.raises(TypeError, match="takes lists of strings"):
        tokenizer.tokenize("ab")
    with pytest.raises(ValueError, match="two strings, or two lists"):
        tokenizer(["a"], "b")
    with pytest.raises(ValueError, match="equally many. Got 2 and 1"):
        tokenizer(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="`pad_to_multiple_of` must be at least 1"):
        tokenizer("a", pad_to_multiple_of=0)


def test_tokens_without_a_row_are_refused(tokenizer: Tokenizer) -> None:
    """facebook/bart-large-cnn has 50,264 rows, and its tokenizer has `<mask>` = 50264."""
    small = tokenizer.for_vocabulary(50264)
    assert small("a <mask>").input_ids.tolist() == tokenizer("a <mask>").input_ids.tolist()
    with pytest.raises(ValueError, match=r"The text 'a <mask>' needs '<mask>' \(50264\), and the model's"):
        small(["a", "a <mask>"], split_special_tokens=False)
    assert tokenizer("a <mask>", split_special_tokens=False).input_ids[-2] == 50264


# Files


def saved(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    tokenizer.save_pretrained(folder)
    return Tokenizer.from_pretrained(folder)


def ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [
        tokenizer.tokenize([case.text], split_special_tokens=case.split_special_tokens)[0].input_ids
        for case in cases(200)
    ]


def test_saving_keeps_the_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")  # of another tokenizer, which would be read first
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7}))
    again = saved(tokenizer, tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt", "config.json"}
    assert ids(again.for_vocabulary(50265)) == ids(tokenizer) and again.model_vocab_size == 7


def test_a_tokenizer_json(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Of a tokenizer that was made in memory; also with the truncation and padding of its training."""
    made = Tokenizer(tokenizer.backend, mask_token="<mask>", prefix="x")
    again = saved(made, tmp_path)
    assert ids(again) == ids(tokenizer)
    assert (again.pad_token_id, again.mask_token_id, again.prefix) == (1, 50264, "x")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.enable_padding(length=9, pad_id=1, pad_token="<pad>")
    backend.save(str(tmp_path / "tokenizer.json"))
    assert ids(Tokenizer.from_pretrained(tmp_path)) == ids(tokenizer)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": True}))
    assert Tokenizer.from_pretrained(tmp_path)("Hello").input_ids.tolist() == [0, 20920, 2]
    assert Tokenizer.from_pretrained(tmp_path).mask_token == "<mask>"  # which nothing but the vocabulary names


def test_a_prefix_comes_from_config_json_and_is_saved(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(FOLDER, source)
    (source / "config.json").write_text(json.dumps({"prefix": " ", "vocab_size": 50264}))
    read = Tokenizer.from_pretrained(source)
    assert (read.prefix, read.model_vocab_size) == (" ", 50264)
    assert saved(read, tmp_path / "target").prefix == " "


def test_settings_of_older_checkpoints(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`add_prefix_space`, other names of special tokens, tokens that a fine-tuned checkpoint has added."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": True, "pad_token": "</s>"}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": 50266, "zzword": 50265}))
    special = {"additional_special_tokens": ["<new>"], "pad_token": "<pad>", "mask_token": {"content": "<unk>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    old = Tokenizer.from_pretrained(tmp_path)
    assert old("Hello").input_ids.tolist() == [0, 20920, 2]
    assert (old.pad_token, old.mask_token_id) == ("</s>", 3)  # tokenizer_config.json counts before the map
    assert old("a zzword <new>").input_ids.tolist()[:4] == [0, 10, 1437, 50265]
    assert 50266 not in old("a zzword <new>").input_ids  # special: text is text
    assert 50266 in old("a zzword <new>", split_special_tokens=False).input_ids
    (tmp_path / "added_tokens.json").unlink()
    decoder = {"50265": {"content": "<new>", "special": True, "rstrip": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    new = Tokenizer.from_pretrained(tmp_path)
    assert new("a<new> b", split_special_tokens=False).input_ids.tolist() == [0, 102, 50265, 428, 2]


BERT = "[PAD] [unused1] [UNK] [CLS] [SEP] [MASK] 我 是 中 国 人 hello wor ##ld ##s , 1 ##2 cafe".split()


def test_the_files_of_bart_base_chinese(tmp_path: Path) -> None:
    """BertTokenizer's: WordPiece over single Chinese characters, `[CLS] A [SEP] B [SEP]`. Ids: transformers 4.57."""
    (tmp_path / "vocab.txt").write_text("\n".join(BERT) + "\n", "utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.mask_token_id) == ("[PAD]", 0, 5)
    batch = tokenizer(["我是[MASK]国人", "Hello, worlds 12 Café\x00"], split_special_tokens=False)
    assert batch.input_ids.tolist() == [[3, 6, 7, 5, 9, 10, 4, 0, 0, 0], [3, 11, 15, 12, 13, 14, 16, 17, 18, 4]]
    assert batch.offsets[1, 1:6].tolist() == [[0, 5], [5, 6], [7, 10], [10, 12], [12, 13]]
    assert tokenizer("我", "hello world").input_ids.tolist() == [3, 6, 4, 11, 12, 13, 4]
    assert tokenizer.decode(batch.input_ids[1]) == "hello , worlds 12 cafe"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert Tokenizer.from_pretrained(tmp_path)("Hello").input_ids.tolist() == [3, 2, 4]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_basic_tokenize": False}))
    with pytest.raises(UnsupportedCheckpointError, match="`do_basic_tokenize` must be True"):
        Tokenizer.from_pretrained(tmp_path)


def test_the_demo_and_what_convert_writes(tmp_path: Path) -> None:
    demo = Tokenizer.from_pretrained("demo")
    assert (demo.pad_token_id, demo.mask_token_id, demo.model_vocab_size) == (1, 4, 359)
    assert demo.decode(demo("40217").input_ids) == "40217"
    convert("demo", tmp_path / "converted")
    again = Tokenizer.from_pretrained(tmp_path / "converted")
    assert again.backend.to_str() == demo.backend.to_str() and again.model_vocab_size == 359


def broken(name: str, content: str | None) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(content, "utf-8")

    return breaks


@pytest.mark.parametrize(
    ["breaks", "error", "says"],
    [
        (broken("merges.txt", None), SourceNotFoundError, "merges.txt is missing"),
        (broken("vocab.json", None), SourceNotFoundError, "vocab.json is missing"),
        (broken("merges.txt", "#version: 0.2\n"), DamagedFileError, "holds no merges"),
        (broken("merges.txt", "#version: 0.2\na b c\n"), DamagedFileError, "Got 'a b c'"),
        (broken("merges.txt", "#version: 0.2\n日 本\n"), DamagedFileError, "does not describe a tokenizer"),
        (broken("vocab.json", "{"), DamagedFileError, "is not valid JSON"),
        (broken("vocab.json", '{"a": "b"}'), DamagedFileError, "must map tokens to ids"),
        (broken("tokenizer.json", "{}"), DamagedFileError, "does not describe a tokenizer"),
        (broken("tokenizer_config.json", '{"pad_token": "<none>"}'), None, ""),
        (broken("tokenizer_config.json", '{"pad_token": 3}'), ConfigurationError, "must be a text. Got 3"),
        (broken("added_tokens.json", '{"new": "x"}'), DamagedFileError, "are not pairs of a token and an id"),
        (broken("added_tokens.json", '{"new": 60000}'), ConfigurationError, "must have the id 60000"),
        (broken("config.json", '{"prefix": 3}'), ConfigurationError, "`prefix` must be a string"),
    ],
)
def test_damaged_files(
    tmp_path: Path, breaks: Callable[[Path], None], error: type[CheckpointError] | None, says: str
) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    breaks(tmp_path)
    if error is None:
        Tokenizer.from_pretrained(tmp_path)
        return
    with pytest.raises(error, match=says) as raised:
        Tokenizer.from_pretrained(tmp_path)
    assert (type(raised.value) is error and str(tmp_path) in str(raised.value)) or says == "must be a text. Got 3"


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="has no tokenizer: neither tokenizer.json, nor"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(SourceNotFoundError, match="There is no folder"):
        Tokenizer.from_pretrained(tmp_path / "none")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"x")
    with pytest.raises(UnsupportedCheckpointError, match="is a SentencePiece tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="cannot be written"):
        Tokenizer.from_pretrained("demo").save_pretrained(tmp_path / "file" / "folder")


def test_no_jax_is_imported() -> None:
    code = "import sys, bart_eqx.text as text; text.Tokenizer.from_pretrained('demo')('7'); print('jax' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "False\n"
