"""The shell command, called in this process: what goes in, what comes out, and what is refused."""

import csv
import dataclasses
import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

import bart_eqx
from bart_eqx.command.app import build, main
from bart_eqx.command.generation_options import SamplingOptions, SearchOptions, TokenOptions
from bart_eqx.convert.command import main as convert_main
from bart_eqx.generation_config import GenerationConfig
from bart_eqx.text import (
    Classifier,
    Embedder,
    MaskFiller,
    QuestionAnswerer,
    Scorer,
    Summarizer,
    TextGenerator,
    ZeroShotClassifier,
)
from text_support import demo_model, demo_tokenizer, tiny


ROOT = Path(__file__).parents[1]
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-\d+)?")
COMMANDS = "summarize generate fill classify zero-shot answer score embed convert info cache".split()
COMMANDS += ["train seq2seq", "train classify", "train denoise"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test keeps programs in the user's folder."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command: `run(*arguments, stdin="...")` gives its status, stdout and stderr."""

    def command(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin.encode()))))  # pyright: ignore
        status = main(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of the classes that the demo is not."""
    folder = tmp_path_factory.mktemp("models")
    small = dict(vocab_size=359, max_position_embeddings=32)
    nli = tiny("BartForSequenceClassification", id2label=("contradiction", "neutral", "entailment"), **small)
    Classifier(nli, demo_tokenizer()).save_pretrained(folder / "nli")
    QuestionAnswerer(tiny("BartForQuestionAnswering", **small), demo_tokenizer()).save_pretrained(folder / "qa")
    return folder


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def as_json(result: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(result)))


# The same as in Python


def test_texts_from_texts(run: Run) -> None:
    status, out, _ = run("summarize", "7", "40217", "-m", "demo", "--to", "jsonl", "--beams", "2")
    summaries = Summarizer(demo_model(), demo_tokenizer(), num_beams=2)(["7", "40217"])
    assert status == 0
    assert lines_of(out) == [{"id": 1, **as_json(summaries[0])}, {"id": 2, **as_json(summaries[1])}]
    assert lines_of(out)[1]["summary_text"] == "forty thousand two hundred and seventeen"

    arguments = ("generate", "7", "40217", "-m", "demo", "--to", "jsonl")
    _, out, _ = run(*arguments, "--num-beams", "2", "--num-return-sequences", "2", "--length-penalty", "0.5")
    options: dict[str, Any] = dict(num_beams=2, num_return_sequences=2, length_penalty=0.5)
    outputs = TextGenerator(demo_model(), demo_tokenizer())(["7", "40217"], **options)
    for line, wanted in zip(lines_of(out), outputs, strict=True):
        results = [as_json(each) for each in wanted]
        assert line == {"id": line["id"], **results[0], "results": results}

    _, out, _ = run(*arguments, "--choices", "eight, forty thousand", "--prefix", "")
    assert [line["generated_text"] for line in lines_of(out)] == ["eight", "forty thousand"]


def test_sampling_is_repeatable(run: Run) -> None:
    arguments = ("generate", "40217", "-m", "demo", "--do-sample", "--temperature", "9", "--to", "jsonl")
    texts = [run(*arguments, "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_parts_of_a_file_are_sampled_from_different_keys(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("40217\n40217\n")
    options = ("-m", "demo", "--do-sample", "--temperature", "9", "--seed", "1", "--part-bytes", "1")
    assert run("generate", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl"), *options)[0] == 0
    first, second = lines_of((tmp_path / "out.jsonl").read_text())
    assert first["generated_text"] != second["generated_text"]


def test_masks(run: Run) -> None:
    texts = ["4<mask>2", "<mask>1<mask>"]
    filler = MaskFiller(demo_model(), demo_tokenizer())
    status, out, _ = run("fill", *texts, "-m", "demo", "--to", "jsonl", "--top-k", "2")
    one, several = filler(texts, top_k=2)
    first, second = lines_of(out)
    assert status == 0 and first == {"id": 1, **as_json(one[0]), "results": [as_json(each) for each in one]}
    assert second == {"id": 2, "results": [[as_json(each) for each in of_mask] for of_mask in several]}

    _, out, _ = run("fill", *texts, "-m", "demo")
    assert out.splitlines() == [one[0].sequence, "\t".join(tokens[0].token_str for tokens in several)]
    _, out, _ = run("fill", texts[0], "-m", "demo", "--targets", " and, hundred", "--to", "jsonl")
    assert {each["token_str"] for each in lines_of(out)[0]["results"]} == {" and", " hundred"}
    _, out, _ = run("fill", texts[0], "-m", "demo", "--infill", "--beams", "4", "--to", "jsonl")
    (wanted,) = filler.infill(texts[0], num_beams=4)
    assert lines_of(out) == [{"id": 1, **as_json(wanted), "results": [as_json(wanted)]}]


def test_classes(run: Run, models: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.ndjson"
    pairs.write_text('{"premise": "12", "hypothesis": "34", "gold": 1}\n{"premise": "5", "hypothesis": "6"}\n')
    folder = str(models / "nli")
    classifier = Classifier.from_pretrained(folder)
    fields = ("--field", "premise", "--pair-field", "hypothesis", "--top-k", "2")
    status, out, _ = run("classify", str(pairs), "-m", folder, *fields)
    for line, wanted in zip(lines_of(out), classifier(["12", "5"], ["34", "6"], top_k=2), strict=True):
        results = [as_json(each) for each in wanted]
        assert {**line, "gold": 1} == {"id": line["id"], "gold": 1, **results[0], "results": results}
    assert status == 0
    _, out, _ = run("classify", "12", "5", "--pair", "34", "-m", folder)
    assert out.splitlines() == [each[0].label for each in classifier(["12", "5"], ["34", "34"])]

    zero_shot = ZeroShotClassifier.from_pretrained(folder)
    (tmp_path / "labels.txt").write_text("1\n2\n")
    template = ("--hypothesis-template", "3{}")
    _, out, _ = run("zero-shot", "12", "-m", folder, "--labels", f"@{tmp_path / 'labels.txt'}", *template)
    assert out == zero_shot("12", ["1", "2"], hypothesis_template="3{}")[0].label + "\n"
    lines = '{"text": "12", "own": ["1", "2"]}\n{"text": "5", "own": ["3"]}\n'
    arguments = ("zero-shot", "-m", folder, "--from", "jsonl", "--labels-field", "own", "--multi-label", *template)
    _, out, _ = run(*arguments, stdin=lines)
    wanted = zero_shot(["12", "5"], [["1", "2"], ["3"]], multi_label=True, hypothesis_template="3{}")
    assert [line["results"] for line in lines_of(out)] == [[as_json(each) for each in own] for own in wanted]


def test_answers(run: Run, models: Path) -> None:
    folder = str(models / "qa")
    answerer = QuestionAnswerer.from_pretrained(folder)
    status, out, _ = run("answer", "12 34 56", "--question", "7", "-m", folder, "--to", "jsonl", "--top-k", "2")
    wanted = [as_json(each) for each in answerer(question="7", context="12 34 56", top_k=2)]
    assert status == 0 and lines_of(out) == [{"id": 1, **wanted[0], "results": wanted}]
    lines = '{"context": "12 34 56", "q": "7", "id": "a"}\n'
    _, out, _ = run("answer", "--question-field", "q", "-m", folder, "--from", "jsonl", stdin=lines)
    assert lines_of(out) == [{"id": "a", **as_json(answerer(question="7", context="12 34 56"))}]
    _, out, _ = run("answer", "--question-field", "q", "-m", folder, "--from", "jsonl", "--to", "text", stdin=lines)
    assert out == wanted[0]["answer"] + "\n"


def test_scores(run: Run) -> None:
    scorer = Scorer(demo_model(), demo_tokenizer())
    status, out, _ = run("score", "7", "15", "--target", "seven", "-m", "demo")
    assert status == 0 and [float(line) for line in out.splitlines()] == [
        each.score for each in scorer(["7", "15"], ["seven", "seven"])
    ]
    lines = '{"source": "7", "target": "seven"}\n{"source": "7", "target": "eight"}\n'
    _, out, _ = run("score", "-m", "demo", "--from", "jsonl", stdin=lines)
    assert [{"id": i, **as_json(each)} for i, each in enumerate(scorer(["7", "7"], ["seven", "eight"]), 1)] == lines_of(
        out
    )
    lines = '{"source": "7", "refs": ["seven", "eight"]}\n'
    _, out, _ = run("score", "-m", "demo", "--from", "jsonl", "--targets-field", "refs", "--agg", "max", stdin=lines)
    assert lines_of(out) == [{"id": 1, "score": scorer.multi_ref_score("7", ["seven", "eight"], agg="max")}]


def test_vectors(run: Run) -> None:
    embedder = Embedder(demo_model(), demo_tokenizer())
    _, out, _ = run("embed", "7", "-m", "demo", "--normalize-embeddings")
    wanted = embedder(["7"], normalize_embeddings=True)[0]
    assert [float(number) for number in out.split()] == pytest.approx(wanted.tolist(), rel=1e-7)
    _, out, _ = run("embed", "7", "-m", "demo", "--pooling", "last", "--int8", "--dtype", "bfloat16", "--to", "jsonl")
    assert len(lines_of(out)[0]["embedding"]) == 128


# What goes in, and what comes out


def test_lines_in_lines_out(run: Run, tmp_path: Path) -> None:
    """An empty line is an empty text, and a line that fails gives an empty line."""
    text = "1<mask>\nnone\n\n2<mask>\nnone"
    status, out, err = run("fill", "-m", "demo", stdin=text)
    assert status == 1 and [len(line) > 1 for line in out.split("\n")] == [True, False, False, True, False, False]
    assert [line.partition(": ")[2].partition(":")[0] for line in err.splitlines()] == [
        "record 2",
        "record 3",
        "record 5",
    ]
    (tmp_path / "in.txt").write_text(text)
    failures = tmp_path / "failed.jsonl"
    assert run("fill", str(tmp_path / "in.txt"), "-m", "demo", "--failures", str(failures)) == (1, out, "")
    assert [line["id"] for line in lines_of(failures.read_text())] == [2, 3, 5]
    status, out, err = run("fill", "none", "-m", "demo")
    assert (status, out, err) == (1, "", "error: Each text must contain <mask>. Got 'none'.\n")


def test_json_lines(run: Run) -> None:
    lines = '{"n": "7", "key": "a", "x": [1]}\n\n{"key": "b"}\nno\n{"n": "15", "key": "c", "score": 1}\n'
    arguments = ("generate", "-m", "demo", "--from", "jsonl", "--field", "n", "--id", "key")
    status, out, err = run(*arguments, stdin=lines)
    assert status == 1
    assert lines_of(out) == [{"key": "a", "x": [1], "generated_text": "seven", "score": None}]
    assert err.splitlines() == [
        "error: record b: line 3: it has no field 'n'; it has 'key'",
        "error: record 4: line 4: it is not JSON (Expecting value at character 1)",
        "error: record c: line 5: it has a field 'score', which the result would replace: rename it",
    ]
    assert run(*arguments, "--to", "text", stdin=lines)[1] == "seven\n"


def test_a_document_is_one_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("4\n0\n")
    wanted = Summarizer(demo_model(), demo_tokenizer())("4\n0\n").summary_text
    arguments = ("summarize", "-m", "demo", "--from", "document")
    assert run(*arguments, str(tmp_path / "in.jsonl"))[1] == f"{wanted}\n"
    assert run(*arguments, stdin="4\n0\n")[1] == f"{wanted}\n"


def test_a_file_to_a_file(run: Run, tmp_path: Path) -> None:
    """In shards, with failures apart; and what is there is not computed again, or replaced unasked."""
    source, whole, shards = (tmp_path / name for name in ("in.jsonl", "whole.jsonl", "shards.jsonl"))
    source.write_text("".join(f'{{"id": "{n}", "text": "{n}"}}\n' for n in range(10, 16)) + '{"id": "x"}\n')
    arguments = ("generate", str(source), "-m", "demo", "--part-bytes", "60", "-o")
    status, out, err = run(*arguments, str(whole))
    failures = tmp_path / "whole.failures.jsonl"
    assert (status, out, err) == (1, "", f"{whole}: 6 records, 1 failed: {failures}\n")
    results = lines_of(whole.read_text())
    assert [line["id"] for line in results] == list("10 11 12 13 14 15".split())
    assert results[0]["generated_text"] == "ten" and [f["id"] for f in lines_of(failures.read_text())] == ["x"]

    status, _, err = run(*arguments, str(shards), "--shard", "1/2")
    assert status == 0 and "parts; the last shard writes the output" in err and not shards.exists()
    assert run(*arguments, str(shards), "--shard", "0/2")[0] == 1
    assert shards.read_bytes() == whole.read_bytes()

    before = whole.stat().st_mtime_ns
    assert run(*arguments, str(whole))[0] == 1 and whole.stat().st_mtime_ns == before
    status, _, err = run(*arguments, str(whole), "--beams", "2")
    assert status == 1 and "num_beams" in err and "--overwrite" in err
    assert run(*arguments, str(whole), "--beams", "2", "--overwrite")[0] == 1
    assert lines_of(whole.read_text())[0]["score"] is not None


def test_texts_to_a_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ("fill", "-m", "demo", "-o", str(out))
    assert run(*arguments, stdin="1<mask>\nnone\n") == (1, "", "")
    assert [line["id"] for line in lines_of(out.read_text())] == [1]
    assert [line["id"] for line in lines_of((tmp_path / "out.failures.jsonl").read_text())] == [2]
    status, _, err = run(*arguments, "2<mask>")
    assert status == 1 and err == f"error: {out} exists: choose another name, or replace it with --overwrite.\n"
    assert run(*arguments, "2<mask>", "--overwrite")[0] == 0


def test_a_table(run: Run, tmp_path: Path) -> None:
    """Rows of CSV, of which one spans lines, are what JSON lines with the same fields are; the columns stay."""
    rows = [("a", "7", "x"), ("b", "1\n5", 'a "b", c'), ("c", "40217", "")]
    table, lines = tmp_path / "in.csv", tmp_path / "in.jsonl"
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("id", "text", "note"), *rows])
    lines.write_text("".join(json.dumps(dict(zip(("id", "text", "note"), row, strict=True))) + "\n" for row in rows))
    arguments = ("generate", "-m", "demo")
    status, out, _ = run(*arguments, str(lines))
    assert status == 0 and run(*arguments, str(table)) == (0, out, "")
    assert run(*arguments, "--from", "csv", stdin=table.read_text("utf-8-sig"))[1] == out
    (tmp_path / "in.tsv").write_text("text\tid\n7\ta\n")
    assert run(*arguments, str(tmp_path / "in.tsv"))[1] == '{"id": "a", "generated_text": "seven", "score": null}\n'
    assert run(*arguments, str(table), "--part-bytes", "20", "-o", str(tmp_path / "out.jsonl"))[0] == 0
    assert (tmp_path / "out.jsonl").read_text() == out
    for options, message in (("--field words", "has no column 'words'. Its first line names id, text, note"),
                             ("--id key", "has no column 'key'"), ("--field note", "its 'note' is empty")):  # fmt: skip
        status, _, err = run(*arguments, str(table), *options.split())
        assert status == (1 if "empty" in message else 2) and message in err, err
    table.write_text("text,score\n7,1\n")
    assert "has a column 'score', which the result would replace" in run(*arguments, str(table))[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"7\n", mtime=0), "is compressed by gzip: unpack it"),
        ("7\n".encode("utf-16"), "is UTF-16: convert it: iconv -f UTF-16 -t UTF-8"),
        (b"PK\x03\x04 and so on", "is a ZIP archive, as .xlsx and .docx files are"),
        (b'[\n  {"text": "7"}\n]', "is one JSON list, and JSON lines have an object on each line"),
        (b'\xef\xbb\xbf{"text": "7"}\n', "begins with {: is it JSON lines"),
    ],
)
def test_files_of_other_kinds(run: Run, tmp_path: Path, content: bytes, message: str) -> None:
    """One line for the file, and not one for each of its lines; nor a text made of what is none."""
    for name in ("in", "in.txt"):
        (tmp_path / name).write_bytes(content)
        status, out, err = run("generate", str(tmp_path / name), "-m", "demo")
        assert (status, out) == (2, "") and f"{tmp_path / name} {message}" in err and err.count("\n") == 1


def test_texts_with_nothing_in_them(run: Run, tmp_path: Path) -> None:
    """What a model says of nothing is made up: an empty text fails, alone."""
    status, out, err = run("generate", "-m", "demo", stdin="\n \t\n7\n")
    assert (status, out) == (1, "\n\nseven\n")
    assert err == "error: record 1: line 1: it is empty\nerror: record 2: line 2: it is empty\n"
    assert run("score", " ", "--target", "x", "-m", "demo")[2] == "error: line 1: its 'source' is empty\n"
    status, out, err = run("score", "-m", "demo", "--from", "jsonl", stdin='{"source": "7", "target": ""}')
    assert (status, out) == (1, "") and err == "error: record 1: line 1: its 'target' is empty\n"
    (tmp_path / "in.txt").write_text("")
    assert run("generate", str(tmp_path / "in.txt"), "-m", "demo") == (0, "", "the input has no records.\n")


def test_the_input_is_not_written_to(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"id": 1}\n')
    Path("link").symlink_to("in.jsonl")
    generate = ("generate", "in.jsonl", "-m", "demo")
    for options in ("-o in.jsonl --overwrite", "-o ./link --overwrite", "--failures in.jsonl", "--failures link"):
        status, out, err = run(*generate, *options.split())
        assert (status, out) == (2, "") and "is the input: choose another name" in err, err
    assert Path("in.jsonl").read_text() == '{"id": 1}\n' and not Path("in.parts").exists()
    for options, message in (("--failures .", ". is a folder"), ("--failures nowhere/f", "there is no folder nowhere"),
                             ("-o /dev/null", "/dev/null is not a regular file")):  # fmt: skip
        status, out, err = run(*generate, *options.split())
        assert (status, out) == (2, "") and message in err, err
    assert run(*generate, "--failures", os.devnull) == (1, "", "")


def test_to_a_terminal_as_it_is_generated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    pieces: list[str] = []
    write = sys.stdout.write
    monkeypatch.setattr(sys.stdout, "write", lambda text: pieces.append(text) or write(text))
    for command in ("summarize", "generate"):
        pieces.clear()
        status, out, _ = run(command, "40217", "-m", "demo")
        assert (status, out) == (0, "forty thousand two hundred and seventeen\n")
        assert pieces == ["forty", " thousand", " two", " hundred", " and", " seventeen", "\n"]
        pieces.clear()
        assert run(command, "40217", "-m", "demo", "--beams", "2")[1] == out and not pieces


# What is refused


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("generat 7", 'Unknown command "generat". Did you mean "generate"?'),
        ("generate 7", "requires"),
        ("generate 7 -m demo --nun-beams 3", "Unknown option: --nun-beams. Did you mean --num-beams?"),
        ("generate 7 -m demo --num-beams two", "--num-beams"),
        ("generate 7 -m demo --bad-words-ids 8,9", "it must be JSON, such as [[8, 9], [10]]"),
        ("generate 7 -m demo --penalty-alpha 0.4", "contrastive search is not implemented"),
        ("generate 7 -m demo --stop-strings=x", "they need the tokenizer at every step"),
        ("generate 7 -m demo --streamer x", "is an argument of transformers"),
        ("generate 7 -m demo --output-scores", "--output-scores asks for arrays"),
        ("generate 7 -m demo --num-return-sequences 4", "--num-return-sequences must not be more than --num-beams"),
        ("generate 7 -m demo --max-length 200", "at most 33 tokens"),
        ("generate 7 -m demo --do-sample", "Sampling needs --seed NUMBER"),
        ("generate 7 -m demo --batch-tokens 0", "--batch-tokens must be at least 1"),
        ("generate 7 -m demo --dtype int8", 'Choose from: "float32", "bfloat16", "float16"'),
        ("generate 7 -m demo -o out.txt", "--output writes JSON lines"),
        ("generate 7 -m demo -o out.csv", "--output writes JSON lines: name it .jsonl"),
        ("generate 7 -m demo --id id", "--id is for JSON lines"),
        ("generate 7 -m demo --from jsonl", "Arguments are texts"),
        ("generate 7 -m demo --shard 0/2", "--shard is for a file"),
        ("generate 7 -m demo --shard x", "--shard is k/n"),
        ("generate -m demo", "The input begins with {"),
        ("fill 7<mask> -m demo --beams 2", "for --infill"),
        ("fill 7<mask> -m demo --infill --targets 7", "--targets is for single tokens"),
        ("fill 7<mask> -m demo --infill --num-beam-groups 3", "--num-beams must be a multiple of --num-beam-groups"),
        ("answer 7 -m demo", "A text alone has no question: give it as an option"),
        ("zero-shot 7 -m demo", "Give the labels"),
        ("zero-shot 7 -m demo --labels a --hypothesis-template x", "--hypothesis-template must contain {}"),
        ("zero-shot 7 -m demo --labels @nowhere.txt", "nowhere.txt cannot be read"),
        ("generate 7 -m demo --do-sample --seed 99999999999999999999", "--seed must be from 0 to 4294967295"),
        ("score 7 -m demo --target a --targets-field b", "Give --target or --targets-field, not both"),
        ("score 7 -m demo --target a --agg max", "--agg is for several targets"),
        ("answer 7 -m demo --question 7 --max-seq-len 0", "--max-seq-len must be at least 1. Got 0"),
        ("zero-shot 7 -m demo --labels []", "--labels"),
        ("zero-shot 7 -m demo --labels a,,b", "a text of the list is empty: is there a comma too many?"),
        ("zero-shot 7 -m demo --labels a,b,a", "The labels must differ. 'a' is there twice"),
        ("zero-shot 7 -m demo --labels a --hypothesis-template {}{}", "--hypothesis-template must have {} once"),
        ("zero-shot 7 -m demo --labels a --hypothesis-template {label}", "--hypothesis-template must have {} once"),
        ("generate 7 -m demo --choices []", "the list is empty"),
        ("generate . -m demo", ". is a folder: give a file"),
        ("generate a.txt b.txt -m demo", "a.txt is a file, and not the only argument"),
        ("fill 7<mask> -m demo --targets forty-seven", "Each of --targets must be one token"),
        ("fill 7<mask> -m demo --top-k 0", "--top-k must be at least 1"),
        ("classify 7 -m demo --pair 8 --pair-field p", "Give --pair or --pair-field"),
        ("convert", "Give a SOURCE to convert"),
        ("convert demo demo2", "There are arguments too many: demo2."),
        ("convert --verify x --dtype float32", "--verify takes no options but --json and --ignore"),
    ],
)
def test_wrong_arguments(run: Run, arguments: str, message: str) -> None:
    """One line that says which, and status 2."""
    status, out, err = run(*arguments.split(), stdin='{"text": "7"}\n')
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1 and "--help" in err


def test_other_errors(run: Run, tmp_path: Path) -> None:
    """One line, and status 1."""
    for arguments, message in [
        (
            ("classify", "7", "-m", "demo"),
            "demo is a BartForConditionalGeneration. Classifier needs a BartForSequenceClassification: choose a "
            "checkpoint that was trained for this task, or train it: `bart-eqx train classify`.",
        ),
        (("generate", "7", "-m", str(tmp_path / "nowhere")), "There is no folder"),
        (("generate", "nowhere.txt", "-m", "demo"), "nowhere.txt: there is no such file"),
        (("generate", "nowhere.csv", "-m", "demo"), "nowhere.csv: there is no such file"),
        (("generate", "7", "-m", ""), "Name a checkpoint"),
        (("generate", "", "-m", "demo"), "its 'text' is empty"),
        (("info", str(tmp_path)), "config.json"),
        (("convert", "demo", "-o", str(tmp_path)), "exists"),
    ]:
        status, out, err = run(*arguments)
        assert (status, out) == (1, "") and message in err and err.count("\n") == 1


def test_every_option_of_generation_is_one_of_the_command() -> None:
    """By name; but for those that ask for arrays."""
    offered = [
        field.name
        for options in (SearchOptions, SamplingOptions, TokenOptions)
        for field in dataclasses.fields(options)
    ]
    fields = {field.name for field in dataclasses.fields(GenerationConfig)} - {"unusable"}
    assert sorted(offered) == sorted(name for name in fields if not name.startswith("output_"))


def test_null_turns_an_option_off(run: Run) -> None:
    options = TokenOptions(forced_eos_token_id=2)
    assert options.given() == {"forced_eos_token_id": 2}
    status, out, _ = run("generate", "40217", "-m", "demo", "--forced-eos-token-id", "null", "--max-new-tokens", "3")
    wanted = TextGenerator(demo_model(), demo_tokenizer())("40217", forced_eos_token_id=None, max_new_tokens=3)
    assert status == 0 and out.strip() == wanted.generated_text.strip() and wanted.generated_text.count(" ") == 1


# The other commands


def test_info(run: Run, models: Path, tmp_path: Path) -> None:
    status, out, _ = run("info", "demo")
    assert status == 0 and "encoder               2 layers of 128, 4 heads, feed-forward 384\n" in out
    described = json.loads(run("info", "demo", "--json")[1])
    assert described["parameters"]["total"] == 849_639 == sum(described["parameters"].values()) // 2
    assert described["memory"]["bfloat16"] * 2 == described["memory"]["float32"] == 4 * 849_639
    assert described["generation"] == {"max_length": 24}
    assert described["tasks"] == ["summarize", "generate", "fill", "score", "embed"]
    bart_eqx.save_pretrained(bart_eqx.quantize(demo_model()), tmp_path / "int8")
    described = json.loads(run("info", str(tmp_path / "int8"), "--json")[1])
    (size,) = described["files"].values()
    assert 0 <= size - described["memory"]["int8"] < 20_000  # the header of the file
    assert described["tokenizer"] is None and described["tasks"] == []

    assert json.loads(run("info", str(models / "nli"), "--json")[1])["tasks"] == ["classify", "zero-shot", "embed"]
    assert json.loads(run("info", str(models / "qa"), "--json")[1])["tasks"] == ["answer", "embed"]
    (models / "nli" / "model.safetensors").rename(tmp_path / "elsewhere")
    without = run("info", str(models / "nli"))[1]  # as on the Hub: weights are not downloaded
    (tmp_path / "elsewhere").rename(models / "nli" / "model.safetensors")
    assert "weights               not on this machine\n" in without and "contradiction, neutral, entailment" in without


def test_cache(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    for name in ("jit_f-1-cache", "jit_f-1-atime", "mine.txt"):
        (folder / name).write_bytes(b"12")
    monkeypatch.setenv("BART_EQX_CACHE_DIR", str(folder))
    assert run("cache")[1] == f"{folder}: 1 programs, 0.0 MB\n"
    assert run("cache", "--clear")[1] == f"{folder}: 1 programs, 0.0 MB, deleted\n"
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "of-jax"))
    assert run("cache", "--cache-dir", str(tmp_path))[1].startswith(f"{tmp_path}: 0")
    monkeypatch.delenv("BART_EQX_CACHE_DIR")
    assert run("cache")[1].startswith(f"{tmp_path / 'of-jax'}: 0")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert run("cache")[1].startswith(f"{tmp_path / 'bart_eqx'}: 0")


def test_converting_is_the_converters_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run("convert", "demo", "-o", str(tmp_path / "a"), "--dtype", "bfloat16", "--json")
    assert (status, convert_main(["demo", "-o", str(tmp_path / "b"), "--dtype", "bfloat16", "--json"])) == (0, 0)
    assert capsys.readouterr().out == out and json.loads(out)["dtype"] == "bfloat16"
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_examples_of_the_docs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/tasks.md prints what stands under it; numbers to 1e-3."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tasks.md").read_text()
    (lines,) = re.findall(r"^```json\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    Path("numbers.jsonl").write_text(lines)
    config = dataclasses.replace(demo_model().config, id2label=("contradiction", "neutral", "entailment"), num_labels=3)
    arguments: dict[str, Any] = dict(config=config, key=jax.random.key(0))
    nli = bart_eqx.from_pretrained("demo", bart_eqx.BartForSequenceClassification, **arguments)
    Classifier(nli, demo_tokenizer()).save_pretrained("nli")
    reader = bart_eqx.from_pretrained("demo", bart_eqx.BartForQuestionAnswering, **arguments)
    QuestionAnswerer(reader, demo_tokenizer()).save_pretrained("reader")
    blocks = re.findall(r"^```console\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    examples = [example for block in blocks for example in block.split("$ bart-eqx ")[1:]]
    assert len(examples) >= 16
    for example in examples:
        command, _, printed = example.partition("\n")
        _, out, err = run(*shlex.split(command))
        shown = (out + err).replace(f"{tmp_path}/", "")
        assert _NUMBER.sub("0.0", shown) == _NUMBER.sub("0.0", printed), command
        numbers = [[float(number) for number in _NUMBER.findall(text)] for text in (shown, printed)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-3), command


def test_completion_knows_commands_and_options() -> None:
    script = build().generate_completion(prog_name="bart-eqx", shell="bash")
    for name in (*COMMANDS, "--num-beams", "--beams", "--hypothesis-template", "--clear", "--label-smoothing"):
        assert name.split()[-1] in script


def test_help_needs_no_jax() -> None:
    """Of every command, with an example of its use; and a wrong option is answered at once."""
    program = (
        "import sys\nfrom bart_eqx.command.app import main\n"
        f"for command in {COMMANDS}:\n    assert main([*command.split(), '--help']) == 0\n"
        "assert main(['train', '--help']) == 0\n"
        "assert main(['generate', '7', '-m', 'demo', '--nun-beams', '3']) == 2 == main(['fill', 'x'])\n"
        "assert main(['--help']) == 0 == main(['--version'])\n"
        "assert main(['info', 'demo']) == 0\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"bart-eqx {name} " in done.stdout.partition(f"Usage: bart-eqx {name} ")[2].partition("Usage:")[0]


def test_ctrl_c_while_a_command_writes(tmp_path: Path) -> None:
    (tmp_path / "a_command.py").write_text(
        "import os, signal\nfrom bart_eqx.process import exit_on_interrupt\n"
        "def main():\n    exit_on_interrupt('interrupted.')\n    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bart_eqx.process import run; run('a_command')"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-B", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (130, "interrupted.\n")


def test_warnings_are_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With options as a shell has them, and no line of somebody's code."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        _, out, err = run("generate", "7", "-m", "demo", "--temperature", "0.5", "--seed", "1")
    assert (out, err.splitlines()) == (
        "seven\n",
        [
            "warning: --temperature 0.5 has no effect without --do-sample.",
            "warning: --seed has no effect without --do-sample.",
        ],
    )
    _, _, err = run("generate", "7" * 40, "-m", "demo")
    assert err.startswith("warning: 1 of 1 texts have more than the model's 32 tokens: 10 tokens were dropped.")
    assert "--no-truncation makes it an error" in err
    _, _, err = run("generate", "7" * 40, "-m", "demo", "--no-truncation")
    assert err == f"error: The text '{'7' * 40}' has 42 tokens, and the model 32 positions: split it.\n"
