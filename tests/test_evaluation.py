"""ROUGE and accuracy: against rouge-score itself, values known by hand, and tasks over records."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bart_eqx.command import evaluate as command
from bart_eqx.command.app import build
from bart_eqx.command.errors import UsageError
from bart_eqx.text import Classifier, Summarizer, TextGenerator, ZeroShotClassifier, accuracy, evaluate, rouge
from bart_eqx.text.metrics import ROUGE_TYPES
from text_support import demo_model, demo_tokenizer, tiny


SCORER = importlib.import_module("rouge_score.rouge_scorer")
SUMMARIES = [
    "The council built a bridge. It was never finished.",
    "Dr. Smith, who runs the café, says it isn't open on Mondays!",
    "Reading files;\nwriting files.",
    "x",
]
REFERENCES = [
    "In 1849 the council decided to build a bridge. The money ran out, and it was never finished.",
    "The cafe of Dr. Smith opens on Tuesday.\nHe said so.",
    "It reads and writes files.",
    "x y z",
]


def test_known_values() -> None:
    """By hand; the last is the example of a summary in Lin's paper (2004, section 3.2)."""
    one = rouge(["the cat sat on the mat"], ["the cat was on the mat"])
    assert one.rouge1.fmeasure.mean == pytest.approx(5 / 6) and one.rouge2.fmeasure.mean == pytest.approx(3 / 5)
    assert one.rougeL.recall.mean == one.rougeLsum.precision.mean == pytest.approx(5 / 6)
    assert one.num_records == 1
    stemmed = [rouge(["It runs"], ["it was running"], use_stemmer=way).rouge1.recall.mean for way in (True, False)]
    assert stemmed == pytest.approx([2 / 3, 1 / 3])
    lin = rouge(["w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5"], ["w1 w2 w3 w4 w5"]).rougeLsum
    assert (lin.recall.mean, lin.precision.mean) == pytest.approx((4 / 5, 4 / 10))


def test_as_the_library() -> None:
    """Means of what rouge-score says of each record, its sentences on lines of their own; several references."""
    lines = [
        ["The council built a bridge.\nIt was never finished.", *SUMMARIES[1:]],
        [REFERENCES[0].replace("bridge. ", "bridge.\n"), *REFERENCES[1:]],
    ]
    scorer = SCORER.RougeScorer(ROUGE_TYPES, use_stemmer=True)
    result = rouge(SUMMARIES, REFERENCES)
    expected = [scorer.score(reference, summary) for summary, reference in zip(*lines, strict=True)]
    for kind in ROUGE_TYPES:
        parts = [getattr(result, kind).precision, getattr(result, kind).recall, getattr(result, kind).fmeasure]
        np.testing.assert_allclose([part.mean for part in parts], np.mean([each[kind] for each in expected], axis=0))
        assert all(0 <= part.low <= part.mean <= part.high <= 1 for part in parts)
    assert result.rouge1.fmeasure.low < result.rouge1.fmeasure.mean
    assert rouge(lines[0], lines[1], language=None) == result
    swapped = ["One two three. Four five six."], ["Four five six. One two three."]
    by_sentence, by_line = (rouge(*swapped, language=language).rougeLsum.recall.mean for language in ("en", None))
    assert (by_sentence, by_line) == (1, 0.5)
    several = rouge(SUMMARIES, [[reference, "x"] for reference in REFERENCES])
    assert several.rouge1.fmeasure.mean == pytest.approx(
        np.mean([*(each["rouge1"].fmeasure for each in expected[:3]), 1])
    )


def test_intervals_are_the_same_each_time() -> None:
    """And NumPy's global generator draws what it would have drawn."""
    np.random.seed(7)
    drawn = np.random.random(3)
    np.random.seed(7)
    first = rouge(SUMMARIES, REFERENCES)
    np.testing.assert_array_equal(np.random.random(3), drawn)
    assert rouge(SUMMARIES, REFERENCES) == first


def test_accuracy() -> None:
    result = accuracy(["a", "b", "a", "A"], ["a", "b", "c", "a"])
    assert (result.accuracy.mean, result.num_correct, result.num_records) == (0.5, 2, 4)
    # Wilson's interval: the parts p at which 0.5 is 1.96 standard deviations, of sqrt(p (1 - p) / 4), away.
    for end in (result.accuracy.low, result.accuracy.high):
        assert abs(end - 0.5) == pytest.approx(1.959964 * (end * (1 - end) / 4) ** 0.5, abs=1e-6)
    right = accuracy(["a"] * 10, ["a"] * 10).accuracy
    assert right.mean == right.high == 1 and 0.7 < right.low < 0.75
    wrong = accuracy(["a"] * 10, ["b"] * 10).accuracy
    assert (wrong.low, wrong.mean) == (0, 0) and wrong.high == pytest.approx(1 - right.low)


@pytest.mark.parametrize("metric", [rouge, accuracy])
def test_what_cannot_be_compared(metric: Any) -> None:
    with pytest.raises(ValueError, match="must be equally many. Got 1 and 2"):
        metric(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="There are no predictions"):
        metric([], [])
    with pytest.raises(TypeError, match="must be lists of strings. Got a string"):
        metric("a", "a")


def test_texts_without_words(caplog: pytest.LogCaptureFixture) -> None:
    """A model may write nothing; but a reference in which ROUGE sees nothing would score 0 whatever is written."""
    for reference in ("", " ", "我们不知道", [], ["a", "..."]):
        with pytest.raises(ValueError, match=r"references\[1\] must have words of the letters a to z"):
            rouge(["a", "b"], [["a"], [reference] if isinstance(reference, str) else reference])
    assert not caplog.records
    assert rouge(["", "a", "?"], ["a", "a", "a"]).rouge1.fmeasure.mean == pytest.approx(1 / 3)
    assert "2 of 3 predictions have no words: they score 0." in caplog.text


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="Install the extra `evaluate`: `pip install rouge-score sentencex`"):
        rouge(["a"], ["a"])
    assert accuracy(["a"], ["a"]).num_correct == 1


# Straight from a model: the demo, which spells numbers


NUMBERS = [
    dict(id=0, text="42", reference="forty-two"),
    dict(id=1, text="7", reference=["eight", "seven"]),
    dict(id=2, text="15", reference="fifty"),
]


def test_texts_of_a_model() -> None:
    summarizer = Summarizer(demo_model(), demo_tokenizer())
    result: Any = evaluate(summarizer, NUMBERS)
    assert result == rouge(["forty-two", "seven", "fifteen"], [record["reference"] for record in NUMBERS])
    assert result.rouge2.fmeasure.mean == pytest.approx(1 / 3) and result.rouge1.fmeasure.mean == pytest.approx(2 / 3)
    generator = TextGenerator(demo_model(), demo_tokenizer())
    renamed = [dict(number=record["text"], words=record["reference"]) for record in NUMBERS]
    assert evaluate(generator, renamed, field="number", reference="words") == result


def test_chosen_texts() -> None:
    generator = TextGenerator(demo_model(), demo_tokenizer())
    records = [dict(text="7", reference="seven"), dict(text="8", reference="seven"), dict(text="50", reference="fifty")]
    result: Any = evaluate(generator, records, metric="accuracy")  # exact texts
    assert (result.num_correct, result.num_records) == (2, 3)
    options: dict[str, Any] = dict(choices=["seven", "eight", "fifty"], num_beams=2, num_return_sequences=2)
    assert evaluate(generator, records, **options) == result  # the best of two
    with pytest.raises(ValueError, match="must be one of the task's labels: fifty, seventeen. Got seven"):
        evaluate(generator, records, choices=["seventeen", "fifty"])


def test_labels_of_a_model() -> None:
    config = dict(vocab_size=359, id2label=("contradiction", "neutral", "entailment"), num_labels=3)
    model = tiny("BartForSequenceClassification", **config)
    classifier = Classifier(model, demo_tokenizer())
    names = ("contradiction", "neutral", "entailment")
    found = [labels[0].label for labels in classifier(["7", "8"], ["1", "2"])]
    other = next(name for name in names if name != found[1])
    pairs = [dict(text="7", second="1", reference=found[0]), dict(text="8", second="2", reference=other)]
    result: Any = evaluate(classifier, pairs, pair="second")
    assert (result.num_correct, result.num_records) == (1, 2)
    records = [dict(text="7", reference="7"), dict(text="8", reference="7")]
    with pytest.raises(ValueError, match=r"labels: contradiction, entailment, neutral. Got 7. Labels are compared by"):
        evaluate(classifier, records)

    zero_shot = ZeroShotClassifier(model, demo_tokenizer())
    best = [ranked[0].label for ranked in zero_shot(["7", "8"], ["7", "50"])]
    result = evaluate(zero_shot, records, labels=["7", "50"])
    assert result.num_correct == best.count("7")
    with pytest.raises(ValueError, match=r"labels: 50. Got 7"):
        evaluate(zero_shot, records, labels=["50"])
    with pytest.raises(TypeError, match="ZeroShotClassifier needs `labels`"):
        evaluate(zero_shot, records)


def test_records_that_lack_something() -> None:
    summarizer = Summarizer(demo_model(), demo_tokenizer())
    with pytest.raises(ValueError, match=r"records\[1\] has no field 'reference'. Its fields are: id, text."):
        evaluate(summarizer, [NUMBERS[0], dict(id=1, text="7")])
    with pytest.raises(ValueError, match="Field 'text' must be str. records\\[0\\] has a int, 7"):
        evaluate(summarizer, [dict(text=7, reference="seven")])
    with pytest.raises(ValueError, match="Field 'reference' must be str or int. records\\[0\\] has a list"):
        evaluate(summarizer, [dict(text="7", reference=["seven"])], metric="accuracy")
    with pytest.raises(ValueError, match="There are no records"):
        evaluate(summarizer, [])


# The command


def run(folder: Path, records: list[Any], *options: str) -> None:
    """`bart-eqx evaluate` of a file with a record on each line; a string is a line as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))
    arguments = ["evaluate", str(folder / "in.jsonl"), *options]
    build("evaluate")(arguments, exit_on_error=False, print_error=False, result_action="return_value")


WRITTEN = [
    record | dict(summary_text=text) for record, text in zip(NUMBERS, ("forty-two", "seven", "fifteen"), strict=True)
]


def test_predictions_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named as the tasks write them, or by --prediction; as text and as JSON."""
    run(tmp_path, WRITTEN)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["records     3", "rouge1      66.67% (95%: 0.00% to 100.00%)"] and len(lines) == 5
    run(tmp_path, WRITTEN, "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["rouge2"]["fmeasure"]["mean"] == pytest.approx(1 / 3) and result["num_records"] == 3
    labelled = [dict(gold="a", label="a"), "", dict(gold="b", label="a", id="x")]
    run(tmp_path, labelled, "--reference", "gold")
    assert capsys.readouterr().out.splitlines() == ["records     2", "accuracy    50.00% (95%: 9.45% to 90.55%)"]
    run(tmp_path, labelled, "--reference", "gold", "--prediction", "gold", "--metric", "accuracy", "--json")
    assert json.loads(capsys.readouterr().out)["num_correct"] == 2


def test_predictions_of_a_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "keep_programs", lambda folder: None)
    records = [dict(number=record["text"], words=record["reference"]) for record in NUMBERS]
    names = ["--field", "number", "--reference", "words", "--json"]
    run(tmp_path, records, "--task", "summarize", "-m", "demo", *names)
    summarizer = Summarizer(demo_model(), demo_tokenizer())
    expected: Any = evaluate(summarizer, records, field="number", reference="words")
    assert json.loads(capsys.readouterr().out)["rougeL"]["recall"]["low"] == expected.rougeL.recall.low
    with pytest.raises(UsageError, match="num-beams"):
        run(tmp_path, records, "--task", "generate", "-m", "demo", "--beams", "0", *names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "summarize"], "Give --task and --model together, or neither"),
        (["-m", "demo"], "Give --task and --model together, or neither"),
        (["--beams", "4"], "Options of generation are for --task. Without it, the file has the predictions."),
        (["--labels", "a,b"], "--labels is for --task"),
        (["--prediction", "text"], "Give --metric rouge or --metric accuracy for the field 'text'"),
        (["--task", "zero-shot", "-m", "demo"], "--task zero-shot needs --labels"),
        (["--task", "classify", "-m", "demo", "--choices", "a"], "--choices is not an option of --task classify"),
        (["--task", "classify", "-m", "demo", "--beams", "2"], "--task classify generates nothing"),
        (["--task", "summarize", "-m", "demo", "--prediction", "text"], "Give --prediction or --task, not both"),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run(tmp_path, NUMBERS, *options)


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in.jsonl has no records"):
        run(tmp_path, [])
    with pytest.raises(ValueError, match="in.jsonl, line 2: it is not JSON"):
        run(tmp_path, [NUMBERS[0], "forty-two"])
    with pytest.raises(ValueError, match="record 2 has no field 'summary_text'"):
        run(tmp_path, [WRITTEN[0], NUMBERS[1]])
    with pytest.raises(
        UsageError, match="Name the field with the predictions: --prediction. The first record has id, "
    ):
        run(tmp_path, NUMBERS)
    with pytest.raises(FileNotFoundError):
        build("evaluate")(["evaluate", "none.jsonl"], exit_on_error=False, result_action="return_value")


def test_a_table_of_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In .csv all values are strings; labels that are integers are the same labels."""
    (tmp_path / "in.csv").write_text('gold,label\n1,1\n"2",1\n')
    arguments = ("--reference", "gold", "--json")
    build("evaluate")(["evaluate", str(tmp_path / "in.csv"), *arguments], result_action="return_value")
    table = json.loads(capsys.readouterr().out)
    run(tmp_path, [dict(gold=1, label="1"), dict(gold=2, label="1")], *arguments)
    assert json.loads(capsys.readouterr().out) == table and table["num_correct"] == 1


def test_records_are_counted_from_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^record 2 has no field 'reference'"):
        run(tmp_path, [WRITTEN[0], dict(summary_text="x")])
    with pytest.raises(ValueError, match="^the reference of record 2 must have words"):
        run(tmp_path, [WRITTEN[0], dict(summary_text="x", reference="?")])
