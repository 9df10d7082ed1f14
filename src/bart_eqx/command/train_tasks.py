"""The tasks of `bart-eqx train`: the examples, the loss and the scores of each."""

import contextlib
import functools
import math
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import numpy as np

from ..model.conditional_generation import BartForConditionalGeneration
from ..model.sequence_classification import BartForSequenceClassification
from ..parallel.processes import map_over_processes
from ..text import Classifier, TextGenerator, accuracy, rouge
from ..text.evaluation import column
from ..text.progress import no_progress
from ..training import (
    Denoiser,
    DenoisingConfig,
    classification_examples,
    denoising_examples,
    fairseq_label_smoothing,
    label_names,
    multi_label_loss,
    read_documents,
    read_records,
    regression_loss,
    seq2seq_examples,
    seq2seq_loss,
    single_label_loss,
)
from .errors import UsageError, counting_from_one
from .generation_options import SearchOptions
from .model_options import check_generation
from .train_options import TrainFiles, TrainModel, TrainRecipe, TrainRun
from .train_run import Start, Task, base_recipe, run_training, start_of


Item = TypeVar("Item")


def train_seq2seq(
    files: TrainFiles,
    model: TrainModel,
    recipe: TrainRecipe,
    run: TrainRun,
    search: SearchOptions,
    *,
    fields: tuple[str, str],
    prefix: str | None,
    lengths: tuple[int | None, int | None],
    label_smoothing: float | None,
    score: str,
) -> int:
    """`bart-eqx train seq2seq`. The arguments are the options of the command. Returns the exit status."""
    start = start_of(model)
    base = base_recipe(recipe, "cnn_dm", label_smoothing=label_smoothing)
    if prefix is not None:
        start.tokenizer.prefix = prefix
    source_length = _length("max_source_length", lengths[0], 1024, start)
    target_length = _length("max_target_length", lengths[1], 128, start)
    examples_of = functools.partial(
        seq2seq_examples,
        tokenizer=start.tokenizer,
        source=fields[0],
        target=fields[1],
        max_source_length=source_length,
        max_target_length=target_length,
    )
    held_out = _validation(files.validation, run)
    with _of(files.validation):
        validation = None if held_out is None else examples_of(held_out)
    texts, targets = ([record[field] for record in held_out or ()] for field in fields)
    if targets and score.startswith("rouge"):
        with no_progress(), _of(files.validation), counting_from_one():
            rouge(targets, targets)  # what it refuses is refused before the first step
    generation = {"max_length": target_length + 1} | search.given()  # and the start token
    if "max_new_tokens" in generation:
        del generation["max_length"]
    with _of(files.train):
        examples = examples_of(_records(files.train, *fields))

    def load(**options: Any) -> Any:
        loaded = start.model(BartForConditionalGeneration, **options)
        check_generation(TextGenerator(loaded, start.tokenizer), generation)
        settings = loaded.generation_config.override(**generation)
        return eqx.tree_at(lambda model: model.generation_config, loaded, settings)

    def scores(model: Any) -> dict[str, float]:
        generator = TextGenerator(model, start.tokenizer)
        written = map_over_processes(lambda part: [result.generated_text for result in generator(part)], texts)
        if score == "accuracy":
            return {"accuracy": accuracy(written, targets).accuracy.mean}
        result = rouge(written, targets)
        return {name: getattr(result, name).fmeasure.mean for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")}

    task = Task(
        name="seq2seq",
        settings=dict(
            field=fields[0],
            target_field=fields[1],
            prefix=prefix,
            max_source_length=source_length,
            max_target_length=target_length,
            label_smoothing=base.label_smoothing,
            score=score,
            **search.given(),
        ),
        examples=examples,
        validation=validation,
        loss=_smoothed(base.label_smoothing),
        validation_loss=seq2seq_loss,
        model=load,
        scores=None if score == "validation_loss" else scores,
        score=score,
        greater_is_better=score != "validation_loss",
        unit="tokens",
    )
    return run_training(task, start, files, model, recipe, run, base)


def train_classify(
    files: TrainFiles,
    model: TrainModel,
    recipe: TrainRecipe,
    run: TrainRun,
    *,
    fields: tuple[str, str | None, str],
    labels: Sequence[str] | None,
    problem_type: Any,
    max_length: int | None,
) -> int:
    """`bart-eqx train classify`. The arguments are the options of the command. Returns the exit status."""
    start = start_of(model)
    base = base_recipe(recipe, "mnli")
    text, pair, label = fields
    records = list(_records(files.train, *filter(None, [text, pair])))
    if not records:
        raise ValueError(f"{files.train} has no records.")
    kind: Any = problem_type or _problem_type(records, label)
    if kind == "regression":
        if labels is not None:
            raise UsageError("--labels are names of classes, and a regression has none.")
        names: list[str] = []
    else:
        with _of(files.train):
            names = list(labels) if labels is not None else label_names(records, label)
    if kind == "single_label_classification" and len(names) < 2:
        raise ValueError(f"{files.train}: classes must be at least two. Got {', '.join(names)}.")
    length = _length("max_length", max_length, 1024, start)
    examples_of = functools.partial(
        classification_examples,
        tokenizer=start.tokenizer,
        text=text,
        pair=pair,
        label=label,
        labels=names,
        problem_type=kind,
        max_length=length,
    )
    held_out = _validation(files.validation, run)
    with _of(files.validation):
        validation = None if held_out is None else examples_of(held_out)
    texts = [record[text] for record in held_out or ()]
    pairs = None if pair is None else [record[pair] for record in held_out or ()]
    golds = [np.atleast_1d(example["labels"]) for example in validation or ()]
    with _of(files.train):
        examples = examples_of(records)

    def scores(model: Any) -> dict[str, float]:
        function = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}.get(kind, "none")
        classifier = Classifier(model, start.tokenizer, function_to_apply=function)  # pyright: ignore

        def labels_of(part: Sequence[int]) -> list[list[tuple[str, float]]]:
            own = lambda column: [column[index] for index in part]
            results = classifier(own(texts), None if pairs is None else own(pairs))
            return [[(each.label, each.score) for each in row] for row in results]

        results = map_over_processes(labels_of, range(len(texts)))
        if kind == "single_label_classification":
            best = [row[0][0] for row in results]
            return {"accuracy": accuracy(best, [names[int(gold[0])] for gold in golds]).accuracy.mean}
        if kind == "regression":
            errors = np.array([row[0][1] for row in results]) - np.concatenate(golds)
            return {"mean_squared_error": float(np.mean(np.square(errors)))}
        held = [{name for name, score in row if score > 0.5} for row in results]
        wanted = [{name for name, holds in zip(names, gold, strict=True) if holds} for gold in golds]
        both = sum(len(one & other) for one, other in zip(held, wanted, strict=True))
        return {"micro_f1": 2 * both / (sum(map(len, held)) + sum(map(len, wanted)) or 1)}

    score, loss = {
        "single_label_classification": ("accuracy", single_label_loss),
        "multi_label_classification": ("micro_f1", multi_label_loss),
        "regression": ("mean_squared_error", regression_loss),
    }[kind]
    head: dict[str, Any] = dict(num_labels=len(names) or 1, id2label=tuple(names))
    task = Task(
        name="classify",
        settings=dict(
            field=text, pair_field=pair, label_field=label, labels=names or None, problem_type=kind, max_length=length
        ),
        examples=examples,
        validation=validation,
        loss=loss,
        validation_loss=loss,
        model=functools.partial(start.model, BartForSequenceClassification, **head),
        scores=scores,
        score=score,
        greater_is_better=kind != "regression",
        unit="texts",
        fields={"problem_type": kind},
    )
    return run_training(task, start, files, model, recipe, run, base)


def train_denoise(
    files: TrainFiles,
    model: TrainModel,
    recipe: TrainRecipe,
    run: TrainRun,
    *,
    field: str,
    max_length: int | None,
    label_smoothing: float | None,
    noise: Mapping[str, Any],
    full_stop: str,
) -> int:
    """`bart-eqx train denoise`. The arguments are the options of the command. Returns the exit status."""
    start = start_of(model)
    base = base_recipe(recipe, "pretraining", label_smoothing=label_smoothing)
    room = _room(noise, min(max_length or 512, start.config.max_position_embeddings))
    length = _length("max_length", max_length, 512, start, room=room)
    denoiser = _denoiser(start, noise, full_stop, run.seed)
    examples_of = functools.partial(denoising_examples, tokenizer=start.tokenizer, max_length=length)
    validation = None
    if files.validation is not None:
        validation = _sample(examples_of(_documents(files.validation, field)), run.evaluation_records)
    task = Task(
        name="denoise",
        settings=dict(
            field=field, max_length=length, label_smoothing=base.label_smoothing, full_stop=full_stop, **noise
        ),
        examples=examples_of(_documents(files.train, field)),
        validation=validation,
        transform=functools.partial(_noised, denoiser, room),
        room=room,
        loss=_smoothed(base.label_smoothing),
        validation_loss=seq2seq_loss,
        model=functools.partial(start.model, BartForConditionalGeneration),
        score="validation_loss",
        greater_is_better=False,
        unit="tokens",
    )
    return run_training(task, start, files, model, recipe, run, base)


def _smoothed(label_smoothing: float) -> Any:
    if label_smoothing == 0:
        return seq2seq_loss
    return functools.partial(
        seq2seq_loss, token_loss=functools.partial(fairseq_label_smoothing, epsilon=label_smoothing)
    )


def _length(name: str, given: int | None, default: int, start: Start, *, room: int = 0) -> int:
    positions = start.config.max_position_embeddings - room
    if given is not None and not 3 <= given <= positions:
        raise UsageError(
            f"--{name.replace('_', '-')} must be from 3 to {positions}, for the model's positions. Got {given}."
        )
    return min(default, positions) if given is None else given


def _sample(items: Iterable[Item], count: int) -> list[Item]:
    """All, or a fixed sample of them in their order."""
    items = list(items)
    if count == 0 or len(items) <= count:
        return items
    return [items[index] for index in sorted(random.Random(0).sample(range(len(items)), count))]


def _validation(path: Path | None, run: TrainRun) -> list[dict[str, Any]] | None:
    if path is None:
        return None
    records = _sample(read_records(path), run.evaluation_records)
    if not records:
        raise ValueError(f"{path} has no records.")
    return records


def _problem_type(records: Sequence[Mapping[str, Any]], label: str) -> str:
    value = records[0].get(label) if records else None
    if isinstance(value, list):
        return "multi_label_classification"
    return "regression" if isinstance(value, float) else "single_label_classification"


def _documents(path: Path, field: str) -> Iterable[str]:
    if path.suffix == ".txt":
        return read_documents(path)
    return column(list(read_records(path)), field, str)


def _denoiser(start: Start, noise: Mapping[str, Any], full_stop: str, seed: int) -> Denoiser:
    tokenizer, config = start.tokenizer, start.config
    if tokenizer.mask_token_id is None:
        raise ValueError("The tokenizer has no mask token, which noise is made of.")
    ids = tokenizer.tokenize([full_stop])[0].parts[0].ids
    if len(ids) != 1:
        raise UsageError(f"--full-stop must be one token. {full_stop!r} is {len(ids)} tokens.")
    settings = DenoisingConfig(
        **{**noise, "poisson_lambda": noise["poisson_lambda"] or None},
        vocab_size=config.vocab_size,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
        full_stop_token_id=ids[0],
    )
    return Denoiser(settings, word_starts=tokenizer.word_starts(), seed=seed)


def _room(noise: Mapping[str, Any], length: int) -> int:
    """The tokens that noise may add to a block: twice the insertions that are expected, and eight more."""
    rate = noise["poisson_lambda"]
    empty_spans = noise["mask"] * math.exp(-rate) / rate if rate else 0  # of each word
    return 8 + math.ceil(length * (noise["insert"] + 2 * empty_spans))


def _noised(
    denoiser: Denoiser, room: int, example: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    source, target = denoiser.noise(example["labels"], rng), example["labels"]
    most = len(target) + room
    if len(source) > most:  # one text in millions: its end is dropped
        source = np.append(source[: most - 1], source[-1:])
    return {"input_ids": source, "labels": target}


def _records(path: Path, *texts: str) -> Iterator[dict[str, Any]]:
    """The records of a file, and a warning if these fields of some are empty."""
    empty: dict[str, list[int]] = {name: [] for name in texts}
    number = 0
    for number, record in enumerate(read_records(path), 1):
        for name in texts:
            if isinstance(value := record.get(name), str) and not value.strip():
                empty[name].append(number)
        yield record
    for name, numbers in empty.items():
        if numbers:
            found = f"{len(numbers)} of {number} records have an empty {name!r}, the first is record {numbers[0]}"
            print(f"warning: {path}: {found}.", file=sys.stderr)


@contextlib.contextmanager
def _of(path: Path | None) -> Iterator[None]:
    """In errors of a block, records are those of a file."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from None
