"""Two processes of one job, on this machine. `process_worker.py` is what they run."""

import json
import os
import re
import signal
import subprocess
import time
import types
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import bart_eqx
from bart_eqx.checkpoint.formats.lazy_array import Bounds, bounds
from bart_eqx.checkpoint.pytree import named_parameters
from bart_eqx.parallel import RULES, processes
from bart_eqx.training import Checkpoints, Recipe, batches, make_train_step, seq2seq_loss
from subprocesses import free_port, start
from support import flatten, random_model, write_file
from test_shard_files import CONFIG
from training_support import BagOfWords, ragged_examples, word_loss


HEARTBEAT = 10  # seconds
STEPS = 9


def a_run(kind: str, mesh: Mesh | None) -> Any:
    """A step and a state, on the devices of a mesh: of a BART, or of a model that compiles in a moment."""
    words = kind == "words"
    model: Any = BagOfWords() if words else random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    rules = ((r"embedding", PartitionSpec(None, "fsdp")), *RULES)
    recipe = Recipe(3e-3, warmup_steps=3, total_steps=STEPS, weight_decay=0.01, clip_norm=1.0)
    loss = word_loss if words else seq2seq_loss
    return make_train_step(model, loss, recipe.optimizer(), key=jax.random.key(1), mesh=mesh, rules=rules)


def examples() -> Any:
    return batches(ragged_examples(60, src=20), batch_tokens=160, pad_token_id=1, seed=0, max_shapes=1, row_multiple=8)


def parts_of(model: Any) -> dict[tuple[int, Bounds], np.ndarray]:
    """The parts of its arrays that this process has, by the number of the array and the place in it."""
    leaves = enumerate(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    shards = ((number, leaf.shape, shard) for number, leaf in leaves for shard in leaf.addressable_shards)
    return {(number, bounds(shape, shard.index)): np.asarray(shard.data) for number, shape, shard in shards}


def both(folder: Path, *tasks: str) -> list[Any]:
    port = free_port()
    return [start("process_worker.py", 4, port, rank, str(folder), *tasks) for rank in ("0", "1")]


def both_end_well(folder: Path, *tasks: str) -> None:
    pair = both(folder, *tasks)
    outputs = [process.communicate(timeout=600)[0] for process in pair]
    for process, output in zip(pair, outputs, strict=True):
        assert process.returncode == 0 and output.rstrip().endswith("all the same"), "".join(outputs)[-6000:]


def test_together(tmp_path: Path) -> None:
    """Each process reads its half, and computes its part; process 0 writes; what fails on one fails on both."""
    model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    bart_eqx.save_pretrained(model, tmp_path / "source")
    bart_eqx.save_pretrained(model, tmp_path / "flax", to="flax")
    bart_eqx.save_pretrained(model, tmp_path / "broken", to="flax")
    arrays = {name: np.array(array) for name, array in flatten(bart_eqx.to_flax(model)).items()}
    arrays["model.encoder.layers.0.fc1.kernel"][15, 3] = np.nan  # in the last eighth
    write_file(tmp_path / "broken/flax_model.msgpack", arrays)
    both_end_well(tmp_path, "files", "parts", "own_states")


@pytest.mark.parametrize("kind", ["words", pytest.param("bart", marks=pytest.mark.slow)])
def test_a_run_of_which_a_process_is_killed(tmp_path: Path, kind: str) -> None:
    """The other one ends in time and says so; the run goes on from its last checkpoint, and is read on one device."""
    folder = tmp_path / kind
    pair = both(folder, "killed")
    of_killed, _ = pair[1].communicate(timeout=600)
    killed = time.monotonic()
    output, _ = pair[0].communicate(timeout=600)
    assert pair[1].returncode == -signal.SIGKILL, (of_killed + output)[-6000:]
    assert pair[0].returncode != 0 and time.monotonic() - killed < 3 * HEARTBEAT
    assert "JAX distributed service detected fatal errors" in output and "unhealthy" in output, output[-3000:]
    both_end_well(folder, "training")

    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert [line["best"] for line in lines if "best" in line] == [True, False, True]  # the scores begin again
    is_read_on_one_device(folder)


def is_read_on_one_device(folder: Path) -> None:
    """The last checkpoint of a run, bit by bit."""
    wanted = np.load(folder / "state.npz")
    with Checkpoints(folder / "run/checkpoints") as checkpoints:
        restored = checkpoints.restore(a_run(folder.name, None)[1])
    assert restored is not None
    state = restored.state
    found = named_parameters((state.params, state.opt_state, state.step))
    assert found.keys() == set(wanted.files) and all(np.array_equal(found[name], wanted[name]) for name in found)


SLURM = dict(
    SLURM_JOB_ID="7", SLURM_STEP_NODELIST="n[1-2]", SLURM_NTASKS="2", SLURM_PROCID="1", SLURM_LOCALID="0"
)  # fmt: skip
VARIABLES = dict(JAX_COORDINATOR_ADDRESS="n1:5", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="1")


@pytest.mark.parametrize(
    "environment, given, joined",
    [
        ({}, {}, None),
        ({**SLURM, "SLURM_NTASKS": "1"}, {}, None),
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, {}, None),  # without srun
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {}, None),
        (SLURM, {}, (None, None, None)),  # JAX reads the rest
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "2"}, {}, (None, None, None)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, {}, (None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, {}, (None, None, None)),
        (VARIABLES, {}, ("n1:5", 2, 1)),
        ({**SLURM, "JAX_COORDINATOR_ADDRESS": "n1:5"}, {}, ("n1:5", None, None)),
        (VARIABLES, dict(coordinator="m:6", processes=4, process=0), ("m:6", 4, 0)),
    ],
)
def test_how_a_process_joins(environment: Any, given: Any, joined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What JAX is told, or that it is not called."""
    calls: list[Any] = []
    monkeypatch.setattr(processes, "os", types.SimpleNamespace(environ=environment, path=os.path))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append((args, options)))
    processes.initialize(**given)
    assert calls == ([] if joined is None else [(joined, {"heartbeat_timeout_seconds": 60})])


def test_a_process_that_cannot_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of arguments, or because JAX finds less than the variables promise, as without `jax[k8s]`."""
    with pytest.raises(ValueError, match="Missing: processes, process"):
        processes.initialize("10.0.0.1:1234")

    def nothing_found(*args: Any, **options: Any) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nothing_found)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(
        ValueError, match=r"one of several \(Kubernetes\), and JAX cannot join them \(coordinator_address"
    ):
        processes.initialize()


def recipe(words: str) -> str:
    """The shell script of docs/scaling.md that has these words."""
    page = (Path(__file__).parents[1] / "docs/scaling.md").read_text()
    (script,) = (s for s in re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if words in s)
    return script


@pytest.mark.parametrize("words, tasks", [("CUDA_VISIBLE_DEVICES", 4), ("SLURM_PROCID", 3)])
def test_a_process_for_each_gpu(tmp_path: Path, words: str, tasks: int) -> None:
    """The recipes, with a command that prints what it was given, and a `srun` that starts three tasks."""
    programs = {
        "bart-eqx": 'echo "${CUDA_VISIBLE_DEVICES-all} $*" >> calls',
        "nvidia-smi": "seq 4",
        "srun": 'shift 2; for k in 0 1 2; do SLURM_PROCID=$k SLURM_NTASKS=3 "$@"; done',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-eu", "-c", recipe(words)], cwd=tmp_path, env=environment, check=True)
    calls = sorted((tmp_path / "calls").read_text().splitlines())
    devices = [str(k) if words == "CUDA_VISIBLE_DEVICES" else "all" for k in range(tasks)]
    command = "summarize in.jsonl -o out.jsonl --model bart-large-cnn --shard"
    assert calls == [f"{device} {command} {k}/{tasks}" for k, device in enumerate(devices)]
