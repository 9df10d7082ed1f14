"""`make accelerator`: its small form, and that a part which hangs or fails costs no other part's figures."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


@pytest.mark.slow
def test_the_small_form(tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    command = [sys.executable, str(BENCHMARKS / "accelerator.py"), "--cases", "1", "--output", str(output)]
    done = subprocess.run([*command, "--only", "both attentions", "--only", "highest"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(output.read_text())
    assert record["setting"]["size"] == "tiny" and record["seconds"] > 0 and record["started"]
    assert all(part["error"] is None and 0 < part["seconds"] for part in record["parts"])
    figures = [figure for part in record["parts"] for figure in part["figures"]]
    device, *parity = record["parts"][0]["figures"]
    assert device["platform"] == "cpu" and {"jax", "jaxlib", "equinox", "python"} == set(device["versions"])
    assert len(parity) == 6 and all(check["passed"] and check["difference"] <= check["limit"] for check in parity)
    timed = [figure for figure in figures if "median" in figure]
    names = [figure["figure"] for figure in timed]
    assert names == ["encode", "encode", "train", "train", "generate"]
    assert [figure.get("attention") for figure in timed] == ["fused", "own", "fused", "own", None]
    for figure in timed:
        assert len(figure["seconds"]) >= 2 and min(figure["seconds"]) <= figure["median"] <= figure["first"]
    (difference,) = [figure["difference"] for figure in figures if figure["figure"] == "difference of fused attention"]
    assert 0 <= difference < 3e-2  # bfloat16; measured 0.008
    (row,) = record["generate"]
    assert 0 < row["prefill"] < row["median"] and row["load"] > 0 and row["compile"] > 0
    # float32, two layers of dim 64 and ffn 128: six dim x dim matrices and two dim x ffn; the embedding; keys and
    # values of two sources of 32, and on average 4 of 8 tokens in each of their 4 beams.
    weights = 2 * (6 * 64**2 + 2 * 64 * 128) + 50265 * 64
    assert row["step_bytes"] == 4 * (weights + (2 * 32 + 2 * 4 * 4) * 2 * 2 * 64)
    assert row["bytes_per_second"] == pytest.approx(row["step_bytes"] / row["step"])
    assert "| ours highest | 2 |" in done.stdout and "tokens, beams_cnn, 1 cases" in done.stdout


FAILING = "print('half of a li', end='')\nsys.exit('Oh dear.')"


@pytest.mark.parametrize(("ending", "error"), [("while True: pass", "Ended after 1 seconds"), (FAILING, "Oh dear.")])
def test_a_part_that_hangs_or_fails_keeps_its_figures(benchmarks: Any, ending: str, error: str) -> None:
    program = f"import json, sys\nprint(json.dumps(dict(figure=1)), flush=True)\n{ending}"
    kept, failed = benchmarks("accelerator").figures_of([sys.executable, "-c", program], 1.0)
    assert kept == {"figure": 1} and error in failed["error"]


def test_every_part_has_a_budget_and_the_bounds_of_its_sizes(benchmarks: Any) -> None:
    accelerator, bounds = benchmarks("accelerator"), benchmarks("bounds")
    for setting in (accelerator.FULL, accelerator.SMALL):
        assert setting.size in bounds.SIZES and setting.batch in setting.batches
        for part in setting.parts():
            assert part.seconds > accelerator.TOO_SHORT and part.tasks
    tasks = [task for part in accelerator.FULL.parts() for task in part.tasks if part.peer == ("ours", "bfloat16")]
    assert [task["batch"] for task in tasks if task["kind"] == "generate"] == [1, 8, 64]
