"""`bart-eqx train`, called in this process: the folder of a run, going on, and what is refused."""

import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from bart_eqx.command.app import build, main
from bart_eqx.command.train_options import TrainRecipe
from bart_eqx.command.train_progress import TrainProgress
from bart_eqx.command.train_run import plan_line
from bart_eqx.command.train_settings import keep_settings
from bart_eqx.command.train_signals import Interrupt
from bart_eqx.text import Classifier, MaskFiller, TextGenerator, Tokenizer
from bart_eqx.training import CNN_DM, RECIPES, Recipe
from subprocesses import free_port, start
from text_support import demo_tokenizer, tiny


ROOT = Path(__file__).parents[1]
Train = Callable[..., tuple[int, str]]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SMALL = "--batch-tokens 64 --micro 1 --max-shapes 1 --seed 3".split()
STEPS = "--total-steps 6 --save-every 4 --evaluate-every 3 --learning-rate 1e-2".split()
SEQ2SEQ = ("seq2seq", *SMALL, *STEPS, "--score", "rouge1", "--num-beams", "1", "--max-length", "6")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and examples for each task."""
    folder = tmp_path_factory.mktemp("files")
    model = tiny("BartForConditionalGeneration", vocab_size=359, max_position_embeddings=32, dropout=0.3)
    TextGenerator(model, demo_tokenizer()).save_pretrained(folder / "tiny")
    (folder / "bare").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / "tiny" / name, folder / "bare")
    pairs = [(str(n), " ".join(DIGITS[int(d)] for d in str(n))) for n in range(10, 40)]
    rows = [f"{text},{words}" for text, words in pairs]
    (folder / "train.csv").write_text("\n".join(["text,summary", *rows[:24]]))
    (folder / "held.csv").write_text("\n".join(["text,summary", *rows[24:]]))
    lines = [
        dict(a=text, b=words, parity=["even", "odd"][int(text) % 2], size=float(text), parts=sorted({*words.split()}))
        for text, words in pairs
    ]
    broken = ['{"text": "7", "summary": "seven"}', '{"text": "\\ud800", "summary": "eight"}']
    (folder / "broken.jsonl").write_text("\n".join(broken))
    (folder / "other.jsonl").write_text('{"a": "7", "parity": "neither"}\n')
    (folder / "empty.csv").write_text("text,summary\n7,\n8,eight\n")
    for name, part in (("train.jsonl", lines[:24]), ("held.jsonl", lines[24:])):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    (folder / "text.txt").write_text(
        "\n".join(f"{words}.\n" if i % 5 == 4 else words for i, (_, words) in enumerate(pairs))
    )
    return folder


@pytest.fixture
def train(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs a command beside the files: `train(*arguments)` gives its status and stderr."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(files / "programs"))
    monkeypatch.chdir(files)

    def command(*arguments: object) -> tuple[int, str]:
        status = main(["train", *map(str, arguments)])
        return status, capsys.readouterr().err

    return command


def records(folder: Path) -> list[dict[str, Any]]:
    """Without what differs from run to run, the time."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture
def seq2seq(train: Train, files: Path) -> Callable[..., tuple[int, str]]:
    own = ("--train", "train.csv", "--validation", "held.csv", "-m", "tiny")
    return lambda output, *more: train(*SEQ2SEQ, *own, "-o", output, *more)


@pytest.fixture
def straight(files: Path, seq2seq: Any) -> Path:
    """A run that is not stopped; the first test that needs it runs it."""
    folder = files / "straight"
    if not folder.exists():
        status, err = seq2seq("straight")
        assert status == 0 and "straight/model: after 6 steps, the best with rouge1 0." in err
    return folder


def test_the_folder_of_a_run(straight: Path) -> None:
    names = {path.name for path in straight.iterdir()}
    assert names == {
        "checkpoints", "lock", "loss.png", "metrics.jsonl", "model", "run.json", "settings.lock", "settings.yaml",
    }  # fmt: skip
    assert (straight / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    lines = records(straight)
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]
    evaluations = [line for line in lines if "loss" not in line]
    assert all(
        {"validation_loss", "rouge1", "rouge2", "rougeL", "rougeLsum", "best"} < line.keys() for line in evaluations
    )
    assert evaluations[1]["validation_loss"] < evaluations[0]["validation_loss"] and evaluations[0]["best"]
    assert [path.name for path in (straight / "checkpoints").iterdir()] == ["6"]


def test_the_model_of_a_run(straight: Path) -> None:
    """As transformers has it: its files, the recipe's dropout, and settings of generation."""
    folder = straight / "model"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BartForConditionalGeneration"]
    assert (config["dropout"], config["attention_dropout"]) == (0.1, 0.1)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["max_length"], generation["num_beams"]) == (6, 1)
    generator = TextGenerator.from_pretrained(folder)
    assert isinstance(generator("25").generated_text, str)
    assert Tokenizer.from_pretrained(folder)("25").input_ids.tolist() == demo_tokenizer()("25").input_ids.tolist()


def test_all_settings_are_written(straight: Path) -> None:
    """What was given, and what the recipe has; steps that were not given keep the recipe's proportion."""
    settings = yaml.safe_load((straight / "settings.yaml").read_text())
    given = dict(learning_rate=1e-2, micro=1, total_steps=6, seed=3, score="rouge1", num_beams=1, max_length=6)
    assert given.items() <= settings.items()
    recipe = {
        name: value for name, value in dataclasses.asdict(CNN_DM).items() if name in ("b2", "clip_norm", "dropout")
    }
    assert (recipe | dict(warmup_steps=0, label_smoothing=0.1, max_source_length=32)).items() <= settings.items()
    assert settings["train"] == str(straight.parent / "train.csv") and "output" not in settings


def test_a_run_goes_on(straight: Path, files: Path, seq2seq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C where it was, though no checkpoint was due. While it lives, the same command is refused."""

    def interrupt(self: TrainProgress, record: Mapping[str, Any]) -> None:
        if record["step"] == 1:  # which is recorded while the next one runs
            signal.raise_signal(signal.SIGINT)

    keep_settings(files / "stopped", "seq2seq", {"keep": 9}, {})  # a run without a checkpoint binds nobody
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in background
    with monkeypatch.context() as patch:
        patch.setattr(TrainProgress, "on_record", interrupt)
        status, err = seq2seq("stopped")
    signal.signal(signal.SIGINT, before)
    assert status == 130 and err.splitlines()[-1] == "interrupted after step 2: the same command goes on from there."
    assert re.match(r"24 records, \d+ steps an epoch, 6 steps in all: .* epochs. Learning rate 0.01 after 0 steps", err)
    assert [path.name for path in (files / "stopped/checkpoints").iterdir()] == ["2"]
    refused: list[tuple[int, str]] = []
    with monkeypatch.context() as patch:
        second = lambda *_: refused.append(seq2seq("stopped", "--dropout", "0.2"))
        patch.setattr(TrainProgress, "on_record", second)
        assert seq2seq("stopped")[0] == 0
    message = "error: Another run is training in stopped: wait for it, stop it, or train in another folder."
    assert refused and {(status, err.splitlines()[-1]) for status, err in refused} == {(1, message)}
    assert records(files / "stopped") == records(straight)
    for name in ("model.safetensors", "config.json"):
        assert (files / "stopped/model" / name).read_bytes() == (straight / "model" / name).read_bytes()


@pytest.mark.slow
def test_a_run_that_is_killed(straight: Path, files: Path, seq2seq: Any) -> None:
    """With SIGKILL, once within a save and at two random steps: the model and the records are those of `straight`."""
    own = ("--train", "train.csv", "--validation", "held.csv", "-m", "tiny", "-o", "killed")
    for kill in ("save", *map(str, sorted(random.Random(0).sample(range(1, 7), 2)))):
        with start("train_killed_worker.py", 1, "killed", kill, "train", *SEQ2SEQ, *own) as process:
            output, _ = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, output
    assert seq2seq("killed")[0] == 0
    assert records(files / "killed") == records(straight)
    model = "model/model.safetensors"
    assert (files / "killed" / model).read_bytes() == (straight / model).read_bytes()


def test_a_mesh_of_one_device(straight: Path, files: Path, seq2seq: Any) -> None:
    """Trains and evaluates the same."""
    assert seq2seq("mesh", "--fsdp", "1")[0] == 0
    assert_same_numbers(records(files / "mesh"), records(straight))
    assert (files / "mesh/settings.yaml").read_text() == (straight / "settings.yaml").read_text()


@pytest.mark.slow
def test_two_processes(files: Path, seq2seq: Any) -> None:
    """The numbers of one device, though a signal reached one of them; what fails on process 0 is told by both."""
    own = ("--train", "train.csv", "--validation", "held.csv", "-m", "tiny", "-o", "processes")
    port = free_port()
    arguments = ("train", *SEQ2SEQ, *own, "--fsdp", "2")
    pair = [start("train_command_worker.py", 2, port, rank, *arguments) for rank in ("0", "1")]
    first, second = [process.communicate(timeout=600)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], first + second
    assert "interrupted after step 2: the same command goes on" in first and "interrupted after" not in second
    assert "processes/model: after 6 steps, the best with rouge1" in first and "after 6 steps" not in second
    assert "Another run is training in processes" in first and "process 0: RunLockedError" in second
    assert "--dropout was 0.1, and now 0.2" in first and "failed on another process, process 0" in second
    assert seq2seq("one", "--row-multiple", "4")[0] == 0
    assert_same_numbers(records(files / "processes"), records(files / "one"))
    assert "--row-multiple was 4, and now not given" in seq2seq("processes")[1]
    assert seq2seq("processes", "--row-multiple", "4")[0] == 0
    TextGenerator.from_pretrained(files / "processes/model")


def assert_same_numbers(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [record.keys() for record in found] == [record.keys() for record in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_signals_are_noted(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGTERM)
        assert interrupted() and interrupted.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before and "saving after this step" in capfd.readouterr().err


def test_other_settings_are_refused(straight: Path, files: Path, seq2seq: Any, train: Train) -> None:
    before = (straight / "metrics.jsonl").stat()
    for arguments, message in [
        (("--patience", "3"), "--patience was not given, and now 3."),
        (
            ("--dropout", "0.2", "--field", "text", "--keep", "2"),
            "--keep was 1, and now 2; --dropout was 0.1, and now 0.2.",
        ),
    ]:
        status, err = seq2seq("straight", *arguments)
        assert status == 1 and message in err and "settings.yaml" in err and err.count("\n") == 1
    denoise = ("denoise", *SMALL, "--train", "text.txt", "-m", "tiny")
    assert "it was seq2seq, and is denoise" in train(*denoise, "-o", "straight")[1]
    assert "tiny has other files: train in another folder" in train(*denoise, "-o", "tiny")[1]
    content = (files / "held.csv").read_text()
    (files / "held.csv").write_text(content + "\n")
    status, err = seq2seq("straight")
    (files / "held.csv").write_text(content)
    assert status == 1 and "--validation had the hash" in err
    assert (straight / "metrics.jsonl").stat().st_mtime_ns == before.st_mtime_ns


def test_settings_from_a_file(straight: Path, files: Path, train: Train) -> None:
    """Those of a run make it again; the command line comes first; an unknown key is an error."""
    config = straight / "settings.yaml"
    before = records(straight)
    assert train("seq2seq", "--config", config, "-o", straight)[0] == 0 and records(straight) == before
    status, err = train("seq2seq", "--config", config, "-o", straight, "--num-beams", "2")
    assert status == 1 and "--num-beams was 1, and now 2." in err
    for content, message in [
        ("learning_rat: 1e-4", 'Unknown option: "[learning_rat]"'),
        ("score: bleu", "bleu"),
        ("- train", "must be a mapping"),
        ("train: [", "is not YAML"),
    ]:
        (files / "other.yaml").write_text(f"{content}\n")
        status, err = train("seq2seq", "--config", "other.yaml", "-o", "other", "-m", "tiny", "--train", "train.csv")
        assert status == 2 and message in err and err.count("\n") == 1, err
    status, err = train("seq2seq", "--config", "nowhere.yaml", "-o", "other")
    assert (status, err) == (1, "error: nowhere.yaml: No such file or directory\n") and not (files / "other").exists()


@pytest.mark.parametrize(
    "label, labels, problem_type, function, score",
    [
        ("parity", ["odd", "even"], "single_label_classification", "softmax", "accuracy"),
        pytest.param(*("parts", DIGITS, "multi_label_classification", "sigmoid", "micro_f1"), marks=pytest.mark.slow),
        pytest.param(*("size", None, "regression", "none", "mean_squared_error"), marks=pytest.mark.slow),
    ],
)
def test_classes(
    files: Path, train: Train, label: str, labels: Any, problem_type: str, function: str, score: str
) -> None:
    """Of pairs; of which kind they are is in the file. The labels are those of a YAML file, in its order."""
    (files / f"{label}.yaml").write_text(yaml.safe_dump({"labels": labels, "epochs": 1} if labels else {"epochs": 1}))
    status, _ = train(
        "classify", *SMALL, "--train", "train.jsonl", "--validation", "held.jsonl", "-m", "bare", "--from-scratch",
        "-o", label, "--config", f"{label}.yaml", "--field", "a", "--pair-field", "b", "--label-field", label,
    )  # fmt: skip
    assert status == 0
    classifier = Classifier.from_pretrained(files / label / "model")
    assert classifier.function_to_apply == function
    assert classifier.model.config.id2label == tuple(labels or ["LABEL_0"])
    assert json.loads((files / label / "model/config.json").read_text())["problem_type"] == problem_type
    last = records(files / label)[-1]
    held = [json.loads(line) for line in (files / "held.jsonl").read_text().splitlines()]
    results = classifier([line["a"] for line in held], [line["b"] for line in held])
    if problem_type == "regression":
        wanted = sum((each[0].score - line["size"]) ** 2 for each, line in zip(results, held, strict=True)) / len(held)
    elif problem_type == "single_label_classification":
        wanted = sum(each[0].label == line["parity"] for each, line in zip(results, held, strict=True)) / len(held)
    else:
        pairs = [
            (e.score > 0.5, e.label in line["parts"]) for row, line in zip(results, held, strict=True) for e in row
        ]
        wanted = 2 * sum(a and b for a, b in pairs) / sum(a + b for a, b in pairs)
    assert last[score] == pytest.approx(wanted, rel=1e-5) and last["best"]


def test_denoising_stops_early(files: Path, train: Train) -> None:
    """With a learning rate of zero, no loss is better than the first."""
    status, err = train(
        "denoise", *SMALL, "--train", "text.txt", "--validation", "text.txt", "-m", "bare", "--from-scratch",
        "-o", "denoised", "--learning-rate", "0", "--total-steps", "9", "--evaluate-every", "1", "--patience", "2",
        "--max-length", "12", "--evaluation-records", "4",
    )  # fmt: skip
    assert status == 0 and "after 3 steps (no better score in 2 evaluations), the best with validation_loss" in err
    losses = [line["validation_loss"] for line in records(files / "denoised") if "loss" not in line]
    assert len(losses) == 3 and losses[0] == losses[1] == losses[2] > 0
    MaskFiller.from_pretrained(files / "denoised/model")


def test_a_terminal_has_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step = dict(loss=2.0, tokens=10, seconds=0.5)
    with TrainProgress(5000, "tokens") as progress:
        for number in (1, 2):
            progress.on_record(step | dict(step=number))
        progress.on_record(dict(step=2, accuracy=0.5, best=True))
    assert capsys.readouterr().err == "step 1 of 5000: loss 2.0000\nstep 2: accuracy 0.5000, the best so far\n"
    monkeypatch.setattr("bart_eqx.command.train_progress._SECONDS", 0)
    with TrainProgress(5000, "tokens") as progress:
        for number in (1, 2):
            progress.on_record(step | dict(step=number))
    assert capsys.readouterr().err.splitlines()[1] == "step 2 of 5000: loss 2.0000, 20 tokens/s, 0:41:39 left"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with TrainProgress(5000, "tokens") as progress:
        for number in (7, 8):
            progress.on_record(step | dict(step=number))
        progress.on_record(dict(step=8, accuracy=0.5, best=False))
    err = capsys.readouterr().err
    assert "8/5000" in err and "loss 2.0000, 20 tokens/s" in err and "step 8: accuracy 0.5000\n" in err


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ("seq2seq --patience 2", 2, "--patience needs a --validation file"),
        ("seq2seq --total-steps 3 --epochs 2", 2, "Give --total-steps or --epochs, not both"),
        ("seq2seq --epochs 0", 2, "--epochs must be positive. Got 0"),
        ("seq2seq --fsdp 0", 2, "--fsdp must be at least 1. Got 0"),
        ("seq2seq --fsdp 3 --tensor 2", 2, "--fsdp times --tensor must divide the 1 devices. Got 3 times 2"),
        ("seq2seq --row-multiple 0", 2, "--row-multiple must be at least 1. Got 0"),
        ("seq2seq --micro 0", 2, "--micro must be at least 1. Got 0"),
        ("seq2seq --save-every 0", 2, "--save-every must be at least 1. Got 0"),
        ("seq2seq --seed -1", 2, "--seed must not be negative. Got -1"),
        (
            "seq2seq --total-steps 3 --warmup-steps 3",
            2,
            "--warmup-steps must be less than the 3 steps of the run. Got 3",
        ),
        ("seq2seq --max-source-length 33", 2, "--max-source-length must be from 3 to 32, for the model's positions"),
        ("seq2seq --total-steps 1 --max-length 50", 2, "a sequence has at most 33 tokens. Got max_length=50"),
        ("seq2seq --target-field target", 1, "Record 1 must have a text in its field 'target'"),
        (
            "classify --label-field summary --labels zero,one",
            1,
            "Record 1 has the label 'one zero', which is none of zero",
        ),
        ("classify --label-field summary --problem-type regression", 1, "Record 1 must have a number in its field"),
        ("classify --label-field text --labels 1,2 --problem-type regression", 2, "a regression has none"),
        ("seq2seq --learning-rate nan", 2, "--learning-rate must be a number that is not negative. Got nan"),
        ("seq2seq --target-field none", 1, "train.csv: Record 1 must have a text"),
        ("seq2seq --train broken.jsonl", 1, "broken.jsonl: The text '\\ud800' has a lone surrogate"),
        ("seq2seq --train text.txt", 1, "text.txt must end in .jsonl, .ndjson, .csv or .tsv"),
        (
            "classify --label-field parity --field a --train train.jsonl --validation other.jsonl",
            1,
            "other.jsonl: Record 1 has the",
        ),
        ("classify --labels a,a", 2, "--labels must be different from each other"),
        ("denoise --max-length 30", 2, "--max-length must be from 3 to 2"),
        ("denoise --full-stop ...", 2, "--full-stop must be one token. '...' is 3 tokens"),
        ("denoise --mask 2", 1, "`mask` must be in [0, 1]. Got 2"),
        ("denoise --num-beams 2", 2, "Unknown option: --num-beams"),
        ("classify --label-smoothing 0.1", 2, "Unknown option: --label-smoothing"),
    ],
)
def test_wrong_arguments(files: Path, train: Train, arguments: str, status: int, message: str) -> None:
    """One line, and no folder that would have to be removed."""
    given = arguments.split()
    source = () if "--train" in given else ("--train", "train.csv")
    found, err = train(*given, *source, "-m", "tiny", "-o", "wrong")
    assert found == status and message in err and err.count("\n") == 1, err


def test_what_is_said_before_the_first_step(train: Train) -> None:
    """Empty texts, and how long a run will be, with what to change; here the folder ends it."""
    status, err = train("seq2seq", "--train", "empty.csv", "-m", "tiny", "-o", "train.csv")
    assert status == 1 and err.splitlines() == [
        "warning: empty.csv: 1 of 2 records have an empty 'summary', the first is record 1.",
        "error: train.csv is a file: --output is a folder.",
    ]
    line = plan_line(300, 11, CNN_DM, TrainRecipe())
    assert line.startswith("300 records, 11 steps an epoch, 20,000 steps in all: 1,818.2 epochs. Learning rate 3e-05")
    assert line.endswith("--epochs 3 makes them fit this one.")
    few = dataclasses.replace(CNN_DM, total_steps=3, warmup_steps=0)
    assert "--micro 1 makes more of them, of 2,048 tokens instead of 65,536" in plan_line(
        30, 1, few, TrainRecipe(epochs=3)
    )
    small = dataclasses.replace(few, micro=1)
    assert "--" not in plan_line(9, 1, small, TrainRecipe(total_steps=3))


def test_every_field_of_a_recipe_is_an_option() -> None:
    options = {field.name: field for field in dataclasses.fields(TrainRecipe)}
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert options.keys() - fields == {"recipe", "epochs", "max_shapes", "row_multiple"}
    assert fields - options.keys() == {"label_smoothing"}  # not of each task
    names = options["recipe"].type.__args__[0].__args__  # pyright: ignore
    assert set(names) == RECIPES.keys()


def test_the_steps_of_a_recipe() -> None:
    """The warm-up keeps its part of them."""
    assert TrainRecipe().resolve(CNN_DM, 10) == CNN_DM
    assert TrainRecipe(epochs=2.5).resolve(CNN_DM, 100).warmup_steps == 250 * 500 // 20_000
    resolved = TrainRecipe(total_steps=40, warmup_steps=7, clip_norm=0).resolve(CNN_DM, 100)
    assert (resolved.total_steps, resolved.warmup_steps) == (40, 7)
    assert TrainRecipe(clip_norm=0).given() == {"clip_norm": None}


def test_commands_of_the_docs(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of the help: their options exist."""
    monkeypatch.chdir(files)
    page = (ROOT / "docs/training.md").read_text()
    (Path("run.yaml")).write_text(re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0])
    texts = [page, (ROOT / "README.md").read_text(), (ROOT / "src/bart_eqx/command/train.py").read_text()]
    found = [match for text in texts for match in re.findall(r"bart-eqx (train (?:[^`\n\\]|\\?\n(?= *-))+)", text)]
    commands = [shlex.split(" ".join(command.replace("\\", " ").split()), comments=True) for command in found]
    commands = [command for command in commands if "--train" in command or "--config" in command]
    assert len(commands) >= 10
    for command in commands:
        build(" ".join(command[:2])).parse_args(command, exit_on_error=False, print_error=False)
