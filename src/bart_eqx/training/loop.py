"""The training loop: steps, measurements, evaluations, checkpoints; it goes on where it was stopped."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import blake3
import jax
import numpy as np

from ..checkpoint.save import save_pretrained
from ..parallel.processes import any_process, exchange, from_first
from .checkpoints import Checkpoints
from .metrics_file import MetricsFile
from .run_lock import run_lock
from .step import Metrics, TrainState, TrainStep


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What has become of a run.

    Args:
        state: After the last step.
        stopped: Why there are no more: `"total_steps"`, `"patience"`, `"data"`, which have ended, or `"interrupted"`.
        best_step: The step of the best evaluation, if there was one.
        best_score: Its score.
    """

    state: TrainState
    stopped: str
    best_step: int | None
    best_score: float | None


@dataclasses.dataclass
class _Progress:
    """What a checkpoint holds in addition to the state and the place in the data."""

    data: str  # a digest of the first batch
    evaluated: int = 0  # the step of the last evaluation
    best_step: int | None = None
    best_score: float | None = None
    evaluations_since: int = 0

    def is_best(self, step: int, score: float, greater_is_better: bool) -> bool:
        """Count an evaluation. Whether it is the best so far."""
        self.evaluated = step
        best = self.best_score
        better = best is None or (score > best if greater_is_better else score < best)
        if math.isnan(score) or not better:
            self.evaluations_since += 1
            return False
        self.best_step, self.best_score, self.evaluations_since = step, score, 0
        return True


class _Records:
    """Writes the record of a step while the next one runs, so that the device need not wait; on process 0 only, which
    has the file.
    """

    def __init__(self, file: MetricsFile | None, on_record: Callable[[Mapping[str, Any]], object]):
        self._file, self._on_record = file, on_record
        self._waiting: tuple[int, Metrics] | None = None
        self._time = time.perf_counter()

    def of_step(self, number: int, metrics: Metrics) -> None:
        waiting, self._waiting = self._waiting, (number, metrics)
        if waiting is not None:
            self._write_step(*waiting)

    def of_evaluation(self, record: Mapping[str, Any]) -> None:
        self._write(record)
        self._time = time.perf_counter()

    def finish(self) -> None:
        """Write what waits. All steps so far were finite when this returns."""
        if self._waiting is not None:
            self._write_step(*self._waiting)
            self._waiting = None

    def _write_step(self, number: int, metrics: Metrics) -> None:
        tokens, norm = metrics.count.item(), metrics.gradient_norm.item()
        loss = metrics.loss_sum.item() / (tokens or 1)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteLossError(
                f"Training has stopped: step {number} has the loss {loss}, with gradients of norm {norm}. Lower the "
                "learning rate, clip gradients, or look at the batch. Checkpoints of earlier steps are there."
            )
        now = time.perf_counter()
        record = dict(
            step=number,
            loss=loss,
            tokens=tokens,
            gradient_norm=norm,
            learning_rate=None if metrics.learning_rate is None else metrics.learning_rate.item(),
            seconds=now - self._time,
        )
        self._time = now
        self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(record)
            self._on_record(record)


def train(
    step: TrainStep,
    state: TrainState,
    data: Any,
    folder: str | Path,
    *,
    total_steps: int,
    save_every: int = 1000,
    keep: int = 3,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    evaluate_every: int = 1000,
    score: str | None = None,
    greater_is_better: bool = True,
    patience: int | None = None,
    save: Callable[[Any, Path], object] = save_pretrained,
    on_record: Callable[[Mapping[str, Any]], object] = lambda record: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Training:
    """Train, in a folder. Called again with the same arguments, it goes on from the last checkpoint.

    A run that is killed at any moment and started again has the same weights, losses and scores, bit for bit, as one
    that is not, on the same machine.

    In `folder` are `checkpoints/`; `metrics.jsonl`, with a record of each step and each evaluation; `model/`, the model
    with the best score, or the last one if there is no `evaluate`; and `lock`, which a run holds while it lives.

    In a job of several processes, all call this with the same arguments and a folder that all of them see. `evaluate`
    and `save` are called on all, for arrays to be gathered; process 0 writes and calls `on_record`, and its scores
    decide.

    Args:
        step: From `make_train_step`.
        state: Likewise; it is donated.
        data: Batches, a `grain.IterDataset`: from `batches`, or any.
        folder: Created if it does not exist.
        total_steps: The steps of the whole run. It may end before, with the data.
        save_every: Steps between checkpoints. There is one at the end, too.
        keep: How many checkpoints stay.
        evaluate: Called with the model in inference mode; returns scores.
        evaluate_every: Steps between evaluations.
        score: Which of the scores decides what is best.
        greater_is_better: Whether the best is the highest. `False` for a loss.
        patience: Stop after this many evaluations in a row without a better score. `None`: never.
        save: Writes the model: `save(model, folder)`.
        on_record: Called with each record of metrics.jsonl, for a progress bar or a log. Records of steps have `step`,
            `loss` (the mean), `tokens` (what it is the mean of), `gradient_norm`, `learning_rate`, and `seconds` since
            the record before.
        interrupted: Asked before each step. Once it is true, the run saves a checkpoint and returns: for a signal. Of
            several processes it is enough that one is interrupted. They agree before each step, for which they wait
            until the step before has ended.

    Raises:
        ImportError: if the extra `train` is not installed.
        NonFiniteLossError: if a loss or a gradient is NaN or infinite. Nothing is saved after that step.
        RunLockedError: if another run is training in the folder.
        ValueError: if an argument is out of range, or the folder's run had other data, or another model or optimiser;
            if processes have different data, or each a state of its own.
    """
    for name, value in dict(
        total_steps=total_steps, save_every=save_every, keep=keep, evaluate_every=evaluate_every
    ).items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1. Got {value}.")
    if (evaluate is None) != (score is None):
        raise ValueError("`evaluate` and `score`, the name of the score that decides, go together.")
    if jax.process_count() > 1 and any(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
        raise ValueError(
            "In a job of several processes, every array of `state` must be on all of them: "
            "make_train_step(..., mesh=bart_eqx.parallel.make_mesh())."
        )
    folder = Path(folder).expanduser()
    iterator = iter(data)
    progress = _Progress(_digest_of_first(iterator))
    if len(set(exchange(progress.data))) > 1:
        raise ValueError("All processes must have the same `data`, in the same order. Their first batches differ.")
    with run_lock(folder), Checkpoints(folder / "checkpoints", keep=keep) as checkpoints:
        if (restored := checkpoints.restore(state)) is not None:
            if restored.progress["data"] != progress.data:
                raise ValueError(f"The run in {folder} had other batches: train in another folder, or with its data.")
            state, progress = restored.state, _Progress(**restored.progress)
            iterator.set_state(restored.data)
        number = saved = int(state.step)
        writes = jax.process_index() == 0
        with MetricsFile(folder / "metrics.jsonl", step=number) if writes else contextlib.nullcontext() as file:
            records = _Records(file, on_record)
            stopped = None
            while stopped is None:
                if patience is not None and progress.evaluations_since >= patience:
                    stopped = "patience"
                elif number >= total_steps:
                    stopped = "total_steps"
                elif any_process(interrupted()):
                    stopped = "interrupted"
                elif (batch := next(iterator, None)) is None:
                    stopped = "data"
                else:
                    state, metrics = step(state, batch)
                    number += 1
                    records.of_step(number, metrics)
                at_end = stopped is not None
                finished = at_end and stopped != "interrupted"
                due = number != progress.evaluated and (finished or number % evaluate_every == 0)
                if evaluate is not None and score is not None and due:
                    records.finish()
                    scores = from_first(dict(evaluate(step.model(state))))
                    if score not in scores:
                        raise ValueError(f"`evaluate` must return {score!r}, which is `score`. Got {[*scores]}.")
                    best = progress.is_best(number, scores[score], greater_is_better)
                    records.of_evaluation({"step": number, **scores, "best": best})
                    if best:
                        save(step.model(state), folder / "model")
                if number != saved and (at_end or number % save_every == 0):
                    records.finish()
                    checkpoints.save(state, iterator.get_state(), dataclasses.asdict(progress))
                    saved = number
            records.finish()
            if evaluate is None and stopped != "interrupted":
                save(step.model(state), folder / "model")
    return Training(state=state, stopped=stopped, best_step=progress.best_step, best_score=progress.best_score)


def _digest_of_first(iterator: Any) -> str:
    """Of the first batch, which identifies the examples, their order and their shapes. The iterator stays in front."""
    start = iterator.get_state()
    batch = next(iterator, None)
    if batch is None:
        raise ValueError("`data` must have a batch.")
    iterator.set_state(start)
    digest = blake3.blake3()
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
