"""The parts of a file on a Ray cluster in this process, whose workers die."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import batch_task
from bart_eqx.batch import BatchError, Report, run_file
from bart_eqx.batch.ray import run_file_on_ray
from batch_task import FORMAT, IDENTITY, write_input


pytestmark = pytest.mark.ray


def on_ray(folder: Path, arguments: dict[str, Any], **options: Any) -> Report:
    path = [str(Path(batch_task.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return run_file_on_ray(
        "batch_task:load",
        arguments,
        folder / "in.jsonl",
        folder / "ray.jsonl",
        format=FORMAT,
        identity=IDENTITY,
        part_bytes=2**14,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(path)}},
        **options,
    )


@pytest.fixture
def whole(tmp_path: Path) -> Report:
    """What an uninterrupted run in this process gives."""
    source = write_input(tmp_path / "in.jsonl", 2000)
    (tmp_path / "marks").mkdir()
    return run_file(
        batch_task.load, source, tmp_path / "whole.jsonl", format=FORMAT, identity=IDENTITY, part_bytes=2**14
    )


def check_same(folder: Path, report: Report, whole: Report) -> None:
    assert report.complete and report.computed == report.parts == whole.parts >= 10
    assert (report.records, report.failed) == (whole.records, whole.failed) and report.failed == 10
    for name in ("{}.jsonl", "{}.failures.jsonl"):
        assert (folder / name.format("ray")).read_bytes() == (folder / name.format("whole")).read_bytes()


def test_two_workers_of_an_embedded_cluster_one_dies(tmp_path: Path, whole: Report) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    arguments = dict(delay=0.002, kill_at="r1000", marks=str(tmp_path / "marks"))
    check_same(tmp_path, on_ray(tmp_path, arguments, workers=2), whole)
    assert (tmp_path / "marks/killed").exists() and len(list(tmp_path.glob("marks/ran-*"))) >= 2
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) == handler


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        yield


@pytest.mark.usefixtures("cluster")
def test_the_only_worker_dies_and_is_replaced(tmp_path: Path, whole: Report) -> None:
    check_same(tmp_path, on_ray(tmp_path, dict(kill_at="r1000", marks=str(tmp_path / "marks"))), whole)
    assert (tmp_path / "marks/killed").exists() and len(list(tmp_path.glob("marks/ran-*"))) == 2
    assert ray.is_initialized()
    assert on_ray(tmp_path, {}).computed == 0


@pytest.mark.usefixtures("cluster", "whole")
def test_a_part_that_kills_every_worker_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"A worker died at part 0 \(line 1\), 3 times"):
        on_ray(tmp_path, dict(kill_at="r5"))


@pytest.mark.usefixtures("cluster", "whole")
def test_what_a_worker_raises_is_raised(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'beams'"):
        on_ray(tmp_path, dict(beams=3))
    (tmp_path / "in.jsonl").write_text((tmp_path / "in.jsonl").read_text().replace("text", "test"))
    assert on_ray(tmp_path, {}).complete  # nothing was computed for the other input
