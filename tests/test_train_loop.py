"""The loop: a run that is stopped and goes on is the run that is not stopped, to the last bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bart_eqx
from bart_eqx.training import (
    Checkpoints,
    NonFiniteLossError,
    Recipe,
    RunLockedError,
    batches,
    make_train_step,
    train,
)
from training_support import BagOfWords, ragged_examples, word_loss


EXAMPLES = ragged_examples(40)
RECIPE = Recipe(0.03, warmup_steps=3, total_steps=30, clip_norm=1.0)
OPTIMIZER = RECIPE.optimizer()


def data(seed: int = 0, **options: Any) -> Any:
    return batches(EXAMPLES, batch_tokens=128, pad_token_id=1, seed=seed, micro=2, max_shapes=1, **options)


def start(optimizer: Any = OPTIMIZER) -> Any:
    return make_train_step(BagOfWords(rate=0.2), word_loss, optimizer, key=jax.random.key(5))


def run(folder: Path, total_steps: int, *, batches: Any = None, begin: Any = start, **options: Any) -> Any:
    save = lambda model, folder: (folder.mkdir(exist_ok=True), np.save(folder / "bias.npy", model.bias))
    step, state = begin()
    given = data() if batches is None else batches
    return train(step, state, given, folder, total_steps=total_steps, save_every=4, save=save, **options)


def records(folder: Path) -> list[dict[str, Any]]:
    """Without what differs from run to run, the time."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def bias_score(model: Any) -> dict[str, float]:
    return {"bias": float(jnp.max(model.bias))}


class Stop(Exception):
    pass


def stop_at(step: int) -> Any:
    def on_record(record: Mapping[str, Any]) -> None:
        if record["step"] == step:
            raise Stop

    return on_record


def test_a_run_that_is_stopped_goes_on(tmp_path: Path) -> None:
    """At any step: weights, moments, key, records, scores, and the model that was best."""
    options: dict[str, Any] = dict(evaluate=bias_score, evaluate_every=3, score="bias")
    straight = run(tmp_path / "straight", 12, **options)
    for step in (2, 5, 7, 9):
        with pytest.raises(Stop):
            run(tmp_path / "stopped", 12, on_record=stop_at(step), **options)
    stopped = run(tmp_path / "stopped", 12, **options)
    assert eqx.tree_equal(straight.state, stopped.state)
    assert records(tmp_path / "straight") == records(tmp_path / "stopped")
    assert (straight.best_step, straight.best_score) == (stopped.best_step, stopped.best_score)
    assert straight.stopped == stopped.stopped == "total_steps"
    best = np.load(tmp_path / "stopped/model/bias.npy")
    assert float(best.max()) == stopped.best_score
    steps = [record["step"] for record in records(tmp_path / "straight") if "loss" in record]
    assert steps == list(range(1, 13))


def test_records_and_checkpoints_of_a_run(tmp_path: Path) -> None:
    """A run of 11 steps, and one more that finds it finished; three checkpoints stay."""
    seen: list[Any] = []
    outcome = run(tmp_path, 11, on_record=seen.append)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 12)) and len(seen) == 11
    assert lines[0]["learning_rate"] == 0 and np.isclose(lines[1]["learning_rate"], 0.01)
    assert all(line["loss"] > 0 and line["gradient_norm"] > 0 and line["tokens"] > 0 for line in lines)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "8", "11"}
    assert outcome.state.step == 11 and outcome.best_step is None
    assert (np.load(tmp_path / "model/bias.npy") == outcome.state.params.bias).all()
    again = run(tmp_path, 11)
    assert eqx.tree_equal(again.state, outcome.state) and records(tmp_path) == lines


def test_data_that_end(tmp_path: Path) -> None:
    outcome = run(tmp_path, 1000, batches=data(epochs=2), evaluate=bias_score, score="bias")
    assert outcome.stopped == "data" and outcome.best_step == outcome.state.step
    assert outcome.state.step == len(list(data(epochs=2)))
    with pytest.raises(ValueError, match="must have a batch"):
        run(tmp_path / "none", 10, batches=data(epochs=1).filter(lambda batch: False))


def test_early_stopping(tmp_path: Path) -> None:
    """After two evaluations without a better score; the model is the best one, and the run stays stopped."""
    scores = iter([0.1, 0.5, 0.5, float("nan"), 0.9])
    evaluate = lambda model: {"accuracy": next(scores)}
    options: dict[str, Any] = dict(evaluate=evaluate, evaluate_every=2, score="accuracy", patience=2)
    outcome = run(tmp_path, 20, **options)
    assert (outcome.stopped, outcome.best_step, outcome.best_score, int(outcome.state.step)) == ("patience", 4, 0.5, 8)
    assert [line["best"] for line in records(tmp_path) if "best" in line] == [True, True, False, False]
    assert run(tmp_path, 20, **options).stopped == "patience" and next(scores) == 0.9


def test_the_lowest_score_is_the_best(tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.2])
    outcome = run(
        tmp_path, 6, evaluate=lambda model: {"loss": next(scores)}, evaluate_every=2, score="loss",
        greater_is_better=False,
    )  # fmt: skip
    assert (outcome.best_step, outcome.best_score) == (6, 0.2)
    assert [line["best"] for line in records(tmp_path) if "best" in line] == [True, False, True]


def test_an_interrupted_run_saves_and_goes_on(tmp_path: Path) -> None:
    """Between two checkpoints, without an evaluation or a model of its own."""
    options: dict[str, Any] = dict(evaluate=bias_score, evaluate_every=3, score="bias")
    straight = run(tmp_path / "straight", 7, **options)
    steps: list[Any] = []
    on_record = lambda record: steps.append(record["step"])
    outcome = run(tmp_path / "run", 7, interrupted=lambda: len(steps) == 1, on_record=on_record, **options)
    assert (outcome.stopped, outcome.best_step, int(outcome.state.step)) == ("interrupted", None, 2)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["2"]
    assert not (tmp_path / "run/model").exists()
    resumed = run(tmp_path / "run", 7, **options)
    assert eqx.tree_equal(straight.state, resumed.state)
    assert records(tmp_path / "straight") == records(tmp_path / "run")


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    """While the first one lives, which it does not disturb."""
    refused: list[int] = []

    def second(record: Mapping[str, Any]) -> None:
        with pytest.raises(RunLockedError, match="Another run is training in .*first: wait for it"):
            run(tmp_path / "first", 6)
        refused.append(record["step"])

    first = run(tmp_path / "first", 5, on_record=second)
    assert refused == [1, 2, 3, 4, 5] and first.stopped == "total_steps"
    alone = run(tmp_path / "alone", 6)
    assert eqx.tree_equal(run(tmp_path / "first", 6).state, alone.state)
    assert records(tmp_path / "first") == records(tmp_path / "alone")


@pytest.mark.parametrize("step", [1, 8])
def test_a_loss_that_is_nan(tmp_path: Path, step: int) -> None:
    """The step is named, and no later one is saved."""

    def schedule(count: Any) -> Any:
        return jnp.where(count == step - 2, jnp.inf, 0.01) if step > 1 else 0.01

    def loss(model: Any, batch: Any, key: Any) -> Any:
        total, count = word_loss(model, batch, key)
        return (total if step > 1 else total * jnp.nan), count

    begin = lambda: make_train_step(BagOfWords(), loss, optax.sgd(schedule), key=jax.random.key(5))
    with pytest.raises(NonFiniteLossError, match=f"step {step} has the loss nan"):
        run(tmp_path, 12, begin=begin)
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == ({4} if step > 1 else set())
    assert [record["step"] for record in records(tmp_path)] == list(range(1, step))


def test_other_data_or_another_model(tmp_path: Path) -> None:
    run(tmp_path, 4)
    with pytest.raises(ValueError, match="had other batches"):
        run(tmp_path, 8, batches=data(seed=1))
    with pytest.raises(ValueError, match="not of this model and optimiser"):
        run(tmp_path, 8, begin=lambda: start(optax.sgd(0.1)))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(evaluate=bias_score), "go together"),
        (dict(evaluate=bias_score, score="rouge", evaluate_every=1), "must return 'rouge'.*Got \\['bias'\\]"),
        (dict(keep=0), "`keep` must be at least 1. Got 0"),
        (dict(evaluate_every=0), "`evaluate_every` must be at least 1. Got 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, 2, **options)


def test_a_saved_state_survives_the_steps_after_it(tmp_path: Path) -> None:
    """`save` returns before the files are written, and the arrays are donated to the next step at once."""
    step, state = start()
    batch = next(iter(data()))
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(3):
            state, _ = step(state, batch)
            wanted = jax.tree.map(np.array, (state.params, state.opt_state))
            checkpoints.save(state, {}, {})
            for _ in range(3):
                state, _ = step(state, batch)
            checkpoints.wait()
            restored = checkpoints.restore(state)
            assert restored is not None and restored.state.step == state.step - 3
            assert eqx.tree_equal(jax.tree.map(np.array, (restored.state.params, restored.state.opt_state)), wanted)


ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parent)]))}


def worker(folder: Path, kill: str = "", **environment: str) -> int:
    command = [sys.executable, str(Path(__file__).with_name("train_worker.py")), str(folder), kill]
    return subprocess.run(command, env=os.environ | ENVIRONMENT | environment).returncode


@pytest.mark.slow
def test_a_run_that_is_killed(tmp_path: Path) -> None:
    """With SIGKILL, at five random steps and once within a save. And on four devices, its last state is the same."""
    kills = sorted(random.Random(0).sample(range(2, 24), 5))
    assert worker(tmp_path / "straight") == 0
    for kill in ["save", *map(str, kills)]:
        assert worker(tmp_path / "killed", kill) == -signal.SIGKILL
    assert worker(tmp_path / "killed") == 0
    assert records(tmp_path / "killed") == records(tmp_path / "straight")
    straight, killed = (dict(np.load(tmp_path / name / "state.npz")) for name in ("straight", "killed"))
    assert straight.keys() == killed.keys() and len(straight) > 60
    assert all((straight[name] == killed[name]).all() for name in straight)
    weights = [bart_eqx.from_pretrained(tmp_path / name / "model") for name in ("straight", "killed")]
    assert eqx.tree_equal(*weights)
    shutil.rmtree(tmp_path / "killed/model")
    assert worker(tmp_path / "killed", DEVICES="4", XLA_FLAGS="--xla_force_host_platform_device_count=4") == 0
    spread = dict(np.load(tmp_path / "killed" / "state.npz"))
    assert all((straight[name] == spread[name]).all() for name in straight)
