"""A training run of the command, whatever its examples are: where it starts, and the loop."""

import dataclasses
import functools
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ..checkpoint.find import find, find_tokenizer
from ..checkpoint.formats.json import read_json
from ..checkpoint.load import from_pretrained
from ..checkpoint.read import configuration_errors, read_checkpoint
from ..checkpoint.save import save_pretrained
from ..checkpoint.write import write_json
from ..config import BartConfig
from ..parallel import gathered, initialize, make_mesh, shard, shard_batch
from ..parallel.mesh import BATCH_AXES
from ..parallel.processes import failing_together
from ..parallel.shardings import on_one_device
from ..process import exit_on_interrupt
from ..text import Tokenizer
from ..text.progress import no_progress
from ..training import (
    RECIPES,
    Recipe,
    batches,
    make_train_step,
    mean_loss,
    plot_metrics,
    rematerialise,
    train,
)
from ..training.batches import plan
from ..training.run_lock import run_lock
from .cache import keep_programs
from .errors import UsageError
from .train_options import TrainFiles, TrainModel, TrainRecipe, TrainRun
from .train_progress import TrainProgress
from .train_settings import LOCK, check_folder, keep_settings
from .train_signals import Interrupt


_MANY_EPOCHS, _FEW_STEPS = 100, 100  # beyond which a run is hardly what somebody wants


@dataclasses.dataclass(frozen=True)
class Start:
    """What training starts from.

    Args:
        config: Its configuration.
        tokenizer: Its tokenizer.
        weights: The file of its weights; `None` for random ones.
    """

    config: BartConfig
    tokenizer: Tokenizer
    weights: Path | None

    def model(self, cls: Any, *, key: Any, mesh: Mesh | None, **changes: Any) -> Any:
        """A model in float32.

        Args:
            cls: Its class.
            key: For what is initialised.
            mesh: Where it lies; `None` for one device.
            **changes: Of the configuration.
        """
        config = dataclasses.replace(self.config, **changes)
        if self.weights is None:
            model = cls(config, key=key)
            return model if mesh is None else shard(model, mesh)
        return from_pretrained(
            self.weights,
            cls,
            config=config,
            dtype=jnp.float32,
            key=key,
            ignore_mismatched_sizes="num_labels" in changes,
            mesh=mesh,
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        name: Of the command.
        settings: Its own options, JSON.
        examples: Of the training file.
        validation: Of the validation file, if there is one.
        transform: Of an example, whenever it comes, as in `batches`.
        room: The tokens that it may add.
        loss: Of training.
        validation_loss: Of evaluations.
        model: Makes the model to train, from a key, a mesh or `None`, and the dropout of the configuration.
        scores: Of a model on the validation file, beside its loss. The model is whole, on one device of each process.
            Each process calls this, and computes a part.
        score: The one that decides.
        greater_is_better: Whether the best is the highest.
        unit: What the loss is the mean of.
        fields: What config.json of the trained model has in addition.
    """

    name: str
    settings: Mapping[str, Any]
    examples: Sequence[Any]
    validation: Sequence[Any] | None
    loss: Any
    validation_loss: Any
    model: Callable[..., Any]
    score: str
    greater_is_better: bool
    unit: str
    transform: Callable[..., Any] | None = None
    room: int = 0
    scores: Callable[[Any], Mapping[str, float]] | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def start_of(options: TrainModel) -> Start:
    """Join the other processes of the job, if there are any, and find the model. Its weights are not loaded yet.

    Raises:
        CheckpointError: as `from_pretrained` does.
        ValueError: if this is one of several processes and cannot join them.
    """
    initialize()
    exit_on_interrupt("interrupted before the first step.")
    keep_programs(options.cache_dir)
    where: dict[str, Any] = dict(revision=options.revision, subfolder=options.subfolder)
    if options.from_scratch:
        folder, weights = find_tokenizer(options.model, **where), None
        with configuration_errors(folder / "config.json"):
            config = BartConfig.from_dict(read_json(folder / "config.json"))
    else:
        found = find(options.model, **where)
        folder, weights, config = found.folder, found.weights, read_checkpoint(found).config
    return Start(config, Tokenizer.from_pretrained(folder).for_vocabulary(config.vocab_size), weights)


def base_recipe(options: TrainRecipe, default: str, **more: Any) -> Recipe:
    """The published recipe with the options that were given, but for its steps. `more` are further ones, or `None`."""
    given = options.given() | {name: value for name, value in more.items() if value is not None}
    return dataclasses.replace(RECIPES[options.recipe or default], **given)


def run_training(
    task: Task, start: Start, files: TrainFiles, model: TrainModel, recipe: TrainRecipe, run: TrainRun, base: Recipe
) -> int:
    """Train until the end, or until a signal.

    Args:
        task: What is trained.
        start: Where it starts.
        files: Options.
        model: Options.
        recipe: Options.
        run: Options.
        base: The recipe without its steps.

    Returns:
        The exit status.
    """
    if task.validation is None and run.patience is not None:
        raise UsageError("--patience needs a --validation file.")
    if not task.examples:
        raise ValueError(f"{files.train} has no examples.")
    folder, first = files.output.expanduser(), jax.process_index() == 0
    mesh = _mesh(model)
    sizes: dict[str, Any] = dict(
        batch_tokens=base.batch_tokens,
        max_shapes=recipe.max_shapes,
        row_multiple=_row_multiple(mesh, recipe.row_multiple),
        room=task.room,
    )
    content: dict[str, Any] = dict(pad_token_id=start.tokenizer.pad_token_id, seed=run.seed, transform=task.transform)
    planned = plan(task.examples, micro=base.micro, **sizes)
    resolved = recipe.resolve(base, planned.steps)
    settings = dataclasses.asdict(model) | dataclasses.asdict(run) | dict(task.settings)
    settings |= dict(recipe=recipe.recipe, max_shapes=recipe.max_shapes, **_numbers(resolved, task.settings))
    settings |= dict(row_multiple=sizes["row_multiple"] if sizes["row_multiple"] > 1 else None)
    for name in ("cache_dir", "fsdp", "tensor"):  # a run may go on elsewhere
        del settings[name]
    with failing_together("checking the folder of the run"):
        if first:
            check_folder(folder)
    with run_lock(folder, LOCK):
        with failing_together("writing the settings of the run"):
            if first:
                keep_settings(folder, task.name, settings, dict(train=files.train, validation=files.validation))

        key = jax.random.key(run.seed)
        dropout = dict(dropout=resolved.dropout, attention_dropout=resolved.attention_dropout)
        view: dict[str, Any] = dict(view=rematerialise) if model.rematerialise else {}
        step, state = make_train_step(
            task.model(key=jax.random.fold_in(key, 1), mesh=mesh, **dropout),
            task.loss,
            resolved.optimizer(),
            key=key,
            compute_dtype=jnp.bfloat16 if model.dtype == "bfloat16" else None,
            mesh=mesh,
            **view,
        )
        evaluation: dict[str, Any] = {}
        if task.validation is not None:
            held_out = batches(task.validation, epochs=1, **sizes, **content)
            evaluation = dict(
                evaluate=_evaluation(task, held_out, mesh),
                evaluate_every=run.evaluate_every,
                score=task.score,
                greater_is_better=task.greater_is_better,
                patience=run.patience,
            )

        if first:
            print(plan_line(len(task.examples), planned.steps, resolved, recipe), file=sys.stderr)
        with Interrupt() as interrupted, TrainProgress(resolved.total_steps, task.unit) as progress:

            def on_record(record: Mapping[str, Any]) -> None:
                progress.on_record(record)
                if "loss" not in record:
                    plot_metrics(folder / "metrics.jsonl", folder / "loss.png")

            outcome = train(
                step,
                state,
                planned.batches(**content),
                folder,
                total_steps=resolved.total_steps,
                save_every=run.save_every,
                keep=run.keep,
                save=functools.partial(_save, start.tokenizer, task.fields),
                on_record=on_record,
                interrupted=interrupted,
                **evaluation,
            )
        done = int(outcome.state.step)
        if first and done and task.validation is None:
            plot_metrics(folder / "metrics.jsonl", folder / "loss.png")
    if outcome.stopped == "interrupted":
        if first:
            print(f"interrupted after step {done}: the same command goes on from there.", file=sys.stderr)
        return 128 + (interrupted.received or signal.SIGTERM)  # which another process received
    if first:
        best = ""
        if outcome.best_step is not None:
            best = f", the best with {task.score} {outcome.best_score:.4f} at step {outcome.best_step}"
        stopped = f" (no better score in {run.patience} evaluations)" if outcome.stopped == "patience" else ""
        print(f"{folder / 'model'}: after {done} steps{stopped}{best}", file=sys.stderr)
    return 0


def plan_line(records: int, steps: int, recipe: Recipe, given: TrainRecipe) -> str:
    """How long a run will be, in a line, before it begins."""
    epochs = recipe.total_steps / steps
    line = (
        f"{records:,} records, {steps:,} steps an epoch, {recipe.total_steps:,} steps in all: {epochs:,.1f} epochs. "
        f"Learning rate {recipe.learning_rate:g} after {recipe.warmup_steps:,} steps."
    )
    if given.total_steps is None and given.epochs is None and epochs > _MANY_EPOCHS:
        line += " These steps are those of the recipe, for a large file: --epochs 3 makes them fit this one."
    elif recipe.total_steps < _FEW_STEPS and recipe.micro > 1:
        line += f" They are few: --micro 1 makes more of them, of {recipe.batch_tokens:,} tokens instead of "
        line += f"{recipe.micro * recipe.batch_tokens:,}."
    return line


def _mesh(options: TrainModel) -> Mesh | None:
    """Of all devices of all processes; `None` for a single one."""
    if jax.device_count() == 1 and options.fsdp is None and options.tensor is None:
        return None
    fsdp, tensor = options.fsdp or 1, options.tensor or 1
    if (devices := jax.device_count()) % (fsdp * tensor):
        raise UsageError(f"--fsdp times --tensor must divide the {devices} devices. Got {fsdp} times {tensor}.")
    return make_mesh(fsdp=fsdp, tensor=tensor)


def _row_multiple(mesh: Mesh | None, given: int | None) -> int:
    devices = 1 if mesh is None else math.prod(mesh.shape[name] for name in BATCH_AXES)
    if given is not None and given % devices:
        raise UsageError(f"--row-multiple must be a multiple of the {devices} devices that share rows. Got {given}.")
    return given or devices


def _numbers(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as options."""
    numbers = dataclasses.asdict(recipe)
    if "label_smoothing" not in settings:  # an option of other tasks
        del numbers["label_smoothing"]
    return numbers | dict(clip_norm=recipe.clip_norm or 0.0)


def _evaluation(task: Task, held_out: Any, mesh: Mesh | None) -> Callable[[Any], dict[str, float]]:
    def loss_on_mesh(model: Any, batch: Any, key: Any) -> Any:
        return task.validation_loss(model if mesh is None else gathered(model, mesh), batch, key)

    def evaluate(model: Any) -> dict[str, float]:
        data = held_out if mesh is None else (shard_batch(batch, mesh, axis=1) for batch in held_out)
        scores = {"validation_loss": mean_loss(model, loss_on_mesh, data)}
        if task.scores is not None:
            with no_progress():
                scores |= task.scores(model if mesh is None else on_one_device(model, mesh))
        return scores

    return evaluate


def _save(tokenizer: Tokenizer, fields: Mapping[str, Any], model: eqx.Module, folder: Path) -> None:
    save_pretrained(model, folder)  # pyright: ignore[reportArgumentType]
    with failing_together("saving the tokenizer"):
        if jax.process_index() == 0:
            _save_beside(tokenizer, fields, folder)


def _save_beside(tokenizer: Tokenizer, fields: Mapping[str, Any], folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    if fields:
        partial = folder / ".config.json.partial"
        partial.unlink(missing_ok=True)
        write_json(partial, read_json(folder / "config.json") | dict(fields))
        os.replace(partial, folder / "config.json")
