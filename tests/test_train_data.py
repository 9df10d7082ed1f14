"""Batches for training: every example once in each epoch, few shapes, and the same batches from any place on."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bart_eqx.text import Tokenizer
from bart_eqx.training import (
    batches,
    classification_examples,
    denoising_examples,
    label_names,
    mean_loss,
    read_documents,
    read_records,
    seq2seq_examples,
    steps_per_epoch,
)
from bart_eqx.training.batches import plan
from training_support import BagOfWords, ragged_examples, word_loss


EXAMPLES: list[dict[str, Any]] = [
    example | {"number": np.int32(index)} for index, example in enumerate(ragged_examples(200))
]
OPTIONS: dict[str, Any] = dict(batch_tokens=64, micro=2, pad_token_id=1, seed=3)


def epoch_of(**options: Any) -> list[dict[str, np.ndarray]]:
    merged: dict[str, Any] = OPTIONS | dict(epochs=1) | options
    return list(batches(EXAMPLES, **merged))


def test_every_example_once_in_each_epoch() -> None:
    """And each row is its example, padded; the others are padding."""
    two = list(batches(EXAMPLES, **OPTIONS, epochs=2))
    epochs = two[: len(two) // 2], two[len(two) // 2 :]
    orders = []
    for epoch in epochs:
        numbers = np.concatenate([batch["number"].ravel() for batch in epoch])
        orders.append(numbers[numbers >= 0].tolist())
        assert sorted(orders[-1]) == list(range(200)) and set(numbers[numbers < 0].tolist()) <= {-100}
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    rows = [{name: array.reshape(-1, *array.shape[2:])[row] for name, array in batch.items()} for batch in epochs[0]
            for row in range(batch["number"].size)]  # fmt: skip
    for row in rows:
        real = row["number"] >= 0
        source, labels = (EXAMPLES[row["number"]][name] if real else np.zeros(0) for name in ("input_ids", "labels"))
        assert (
            row["input_ids"][: len(source)].tolist() == source.tolist() and (row["input_ids"][len(source) :] == 1).all()
        )
        assert row["labels"][: len(labels)].tolist() == labels.tolist() and (row["labels"][len(labels) :] == -100).all()
        assert row["attention_mask"].sum() == len(source) and row["attention_mask"][: len(source)].all()


@pytest.mark.parametrize("max_shapes", [1, 4, 8])
def test_few_shapes_that_are_full(max_shapes: int) -> None:
    epoch = epoch_of(max_shapes=max_shapes, micro=1)
    shapes = {(batch["input_ids"].shape, batch["labels"].shape) for batch in epoch}
    assert 1 <= len(shapes) <= max_shapes
    for batch in epoch:
        micro, rows, width = batch["input_ids"].shape
        assert micro == 1 and rows * width <= 64 and {array.shape[:2] for array in batch.values()} == {(1, rows)}
    tokens = sum(batch["attention_mask"].sum() for batch in epoch) / sum(
        batch["attention_mask"].size for batch in epoch
    )
    assert tokens > {1: 0.45, 4: 0.65, 8: 0.7}[max_shapes]


def test_padding_is_worth_a_shape_only_if_it_costs_more_than_a_half_empty_step() -> None:
    few = plan(EXAMPLES, batch_tokens=4096, micro=8).buckets
    many = plan(EXAMPLES, batch_tokens=64).buckets
    assert len(few) == 1 and few[0].rows == 4096 // 30 and dict(few[0].widths)["input_ids"] == 30
    assert 3 <= len(many) <= 8


def test_rows_for_devices() -> None:
    assert all(bucket.rows % 4 == 0 for bucket in plan(EXAMPLES, batch_tokens=64, row_multiple=4).buckets)


@pytest.mark.parametrize("position", [0, 1, 7, 40])
def test_it_goes_on_from_any_place(position: int) -> None:
    noise = lambda example, rng: example | {"labels": rng.permuted(example["labels"])}
    endless = lambda: iter(batches(EXAMPLES, **OPTIONS, transform=noise))
    straight = endless()
    for _ in range(position):
        next(straight)
    assert straight.get_state() == {"next_index": position}
    resumed = endless()
    resumed.set_state(straight.get_state())
    for one, other in itertools.islice(zip(straight, resumed, strict=True), 30):
        assert all((one[name] == other[name]).all() for name in one)


def test_noise_is_new_in_each_epoch() -> None:
    draws: dict[int, set[int]] = {}
    noise = lambda example, rng: {
        "input_ids": example["input_ids"],
        "draw": rng.integers(2**31),
        "number": example["number"],
    }
    for batch in batches(EXAMPLES, **OPTIONS, epochs=2, transform=noise):
        for number, draw in zip(batch["number"].ravel().tolist(), batch["draw"].ravel().tolist(), strict=True):
            draws.setdefault(number, set()).add(draw)
    assert all(len(draws[number]) == 2 for number in range(200))
    assert len(set.union(*(draws[number] for number in range(200)))) == 400


def test_noise_that_adds_tokens() -> None:
    longer = lambda example, rng: example | {"input_ids": np.append(example["input_ids"], [5, 5, 5])}
    with pytest.raises(ValueError, match="3[1-3] tokens of input_ids, and there is room for 30. Give `room`"):
        epoch_of(transform=longer, max_shapes=1)
    assert max(batch["input_ids"].shape[-1] for batch in epoch_of(transform=longer, room=3)) == 33


@pytest.mark.parametrize("options", [dict(micro=1, max_shapes=1), dict(micro=3, max_shapes=4), dict(room=5)])
def test_the_steps_of_an_epoch(options: dict[str, Any]) -> None:
    own = dict(batch_tokens=64, micro=2) | options
    assert steps_per_epoch(EXAMPLES, **own) == len(epoch_of(**options))


def test_the_loss_on_held_out_examples() -> None:
    """It is divided once, by the labels of all batches, and is the same however they are batched."""
    examples = ragged_examples(30)
    model = BagOfWords()
    options: dict[str, Any] = dict(pad_token_id=1, seed=0, epochs=1, max_shapes=1)
    one, other = (
        mean_loss(model, word_loss, batches(examples, batch_tokens=tokens, micro=micro, **options))
        for tokens, micro in ((128, 1), (256, 2))
    )
    losses = [mean_loss(model, word_loss, batches([e], batch_tokens=64, **options)) for e in examples[:1]]
    assert one == pytest.approx(other, rel=1e-6) and losses[0] != pytest.approx(one, rel=1e-3)
    with pytest.raises(ValueError, match="must have a label that counts"):
        mean_loss(model, word_loss, [])


def test_no_examples() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        batches([], **OPTIONS)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained("demo")


def test_records_become_examples(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """From JSONL and from CSV, the same tokens as those of the tokenizer, cut at the lengths."""
    (tmp_path / "a.jsonl").write_text('{"text": "2 5 9", "summary": "5"}\n\n{"text": "7", "summary": "7 7 7"}\n')
    (tmp_path / "a.csv").write_text('text,summary\r\n"2 5 9",5\r\n7,7 7 7\r\n')
    for name in ("a.jsonl", "a.csv"):
        examples = seq2seq_examples(read_records(tmp_path / name), tokenizer, max_target_length=4)
        assert [example["input_ids"].tolist() for example in examples] == [
            tokenizer(text).input_ids.tolist() for text in ("2 5 9", "7")
        ]
        assert examples[1]["labels"].tolist() == tokenizer("7 7 7", max_length=4).input_ids.tolist()
        assert len(examples[1]["labels"]) == 4


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "", "a.txt must end in .jsonl, .ndjson, .csv or .tsv"),
        ("a.jsonl", '{"text": "a", "summary": "b"}\n{"text"\n', "a.jsonl, line 2: it is not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1: it must be a JSON object, and is a list"),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', "a.jsonl, line 1: it has 'text' twice"),
        ("a.csv", "text,summary\na,b\nc\n", "a.csv, line 3: it must have 2 fields"),
        ("a.csv", 'text,summary\n"a"b,c\n', "a.csv, line 2: ',' expected after '\"'"),
        (
            "a.jsonl",
            '{"text": "7", "summary": "5"}\n{"text": "a"}\n',
            "Record 2 must have a text in its field 'summary'",
        ),
        ("a.jsonl", '{"text": 5, "summary": "b"}\n', "Record 1 must have a text in its field 'text'"),
    ],
)
def test_wrong_records(tmp_path: Path, tokenizer: Tokenizer, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        seq2seq_examples(read_records(tmp_path / name), tokenizer)


def test_labels_become_examples(tokenizer: Tokenizer) -> None:
    records = [
        {"text": "7", "pair": "5", "label": "b", "many": ["a", "c"], "size": 0.5},
        {"text": "2 5 9", "pair": "1", "label": "a", "many": [], "size": "2"},
    ]
    names = label_names(records, "many")
    assert names == ["a", "c"] and label_names([{"label": 10}, {"label": "9"}]) == ["9", "10"]
    options: dict[str, Any] = dict(pair="pair", max_length=6)
    single = classification_examples(records, tokenizer, labels=label_names(records), **options)
    assert [int(example["labels"]) for example in single] == [1, 0] and single[0]["labels"].dtype == np.int32
    wanted = tokenizer.tokenize(["7", "2 5 9"], ["5", "1"], max_length=6)
    assert [example["input_ids"].tolist() for example in single] == [row.input_ids for row in wanted]
    multi = classification_examples(
        records, tokenizer, label="many", labels=names, problem_type="multi_label_classification"
    )
    assert [example["labels"].tolist() for example in multi] == [[1, 1], [0, 0]]
    regression = classification_examples(records, tokenizer, label="size", problem_type="regression")
    assert [example["labels"].tolist() for example in regression] == [0.5, 2.0]
    assert {example["labels"].dtype for example in multi + regression} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "record, options, message",
    [
        ({"text": "7"}, {}, "Record 1 must have a label in its field 'label'"),
        ({"text": "7", "label": 0.5}, {}, "Record 1 must have a label in its field 'label'"),
        ({"text": "7", "label": "b"}, {}, "Record 1 has the label 'b', which is none of a"),
        ({"text": "7", "label": ["a", "a"]}, {}, "Record 1 must have one label in its field 'label'"),
        ({"label": "a"}, {}, "Record 1 must have a text in its field 'text'"),
        ({"text": "7", "label": "a"}, dict(labels=[], problem_type="regression"), "must have a number in its field"),
        ({"text": "7", "label": True}, dict(labels=[], problem_type="regression"), "must have a number in its field"),
        ({"text": "7", "label": "inf"}, dict(labels=[], problem_type="regression"), "must have a number in its field"),
        ({"text": "7", "label": "a"}, dict(labels=[]), "`labels` must name the classes"),
    ],
)
def test_wrong_labels(tokenizer: Tokenizer, record: Any, options: Any, message: str) -> None:
    arguments = dict(labels=["a"]) | options
    with pytest.raises(ValueError, match=message):
        classification_examples([record], tokenizer, **arguments)


def test_documents_become_blocks(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Of whole lines of one document, as many as fit; a line that does not fit is cut, and nothing is lost."""
    (tmp_path / "a.txt").write_text("\ufeff1 2\n3\n\n \n4\n5 6 7 8 9 1 2 3\n4\n")
    documents = list(read_documents(tmp_path / "a.txt"))
    assert documents == ["1 2\n3\n", "4\n5 6 7 8 9 1 2 3\n4\n"]
    blocks = denoising_examples(documents, tokenizer, max_length=9)
    assert all((block["input_ids"] == block["labels"]).all() for block in blocks)
    ids = [block["labels"].tolist() for block in blocks]
    assert all(len(block) <= 9 and block[0] == 0 and block[-1] == 2 for block in ids)
    assert [tokenizer.decode(block) for block in ids[:2]] == ["1 2 3", "4"]
    whole = tokenizer("4 5 6 7 8 9 1 2 3 4").input_ids.tolist()
    assert [0, *(token for block in ids[1:] for token in block[1:-1]), 2] == whole
    assert [len(block) for block in ids[2:-1]] == [9] * (len(ids) - 3) and len(ids) > 4
    with pytest.raises(ValueError, match="must be more than 2, the special tokens"):
        denoising_examples(documents, tokenizer, max_length=2)
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="a.txt is not UTF-8"):
        list(read_documents(tmp_path / "a.txt"))
