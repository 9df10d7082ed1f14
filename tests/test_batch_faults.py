"""Files in parts: whatever happens to a run, started again it gives the bytes of an uninterrupted one."""

import errno
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import batch_model_task
import batch_task
from bart_eqx.batch import (
    OutputError,
    run_stream,
)
from bart_eqx.batch.files import atomic_file
from batch_task import FORMAT, contents, run_in as run, write_input


TESTS = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input of a few parts, and what an uninterrupted run makes of it, `whole`."""
    write_input(tmp_path / "in.jsonl", 300)
    assert run(tmp_path, "whole.jsonl").parts >= 5
    return tmp_path


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_a_full_disk_at_every_write(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The run ends with a message, no file is torn, and the next one continues."""
    module, name = call.split(".")
    original = getattr(os, name)
    fault = 0
    for fault in range(1000):
        count = 0

        def full(*arguments: Any) -> None:
            nonlocal count
            count += 1
            if count == fault + 1:  # noqa: B023
                raise OSError(errno.ENOSPC, "No space left on device")
            original(*arguments)

        output = f"out{fault}"
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            try:
                run(folder, f"{output}.jsonl", part_bytes=2**15)
            except OutputError as error:
                assert "cannot be written (No space left on device): free some space" in str(error)
                assert not list(folder.glob("**/*.partial"))
            else:
                break
        assert run(folder, f"{output}.jsonl", part_bytes=2**15).complete and contents(folder, output) == contents(
            folder, "whole"
        )
    assert fault >= 6


def test_what_is_half_written_does_not_fill_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out cannot be written \(No space left"):
        with atomic_file(tmp_path / "out", tmp_path) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


# Forks, so that a kill does not hit the start of an interpreter, and without JAX, which would not survive a fork.
_DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
import batch_task
from bart_eqx.batch import run_file
from batch_task import FORMAT, IDENTITY
assert "jax" not in sys.modules
folder = Path(sys.argv[1])

def start(output, **options):
    arguments = {name: options.pop(name) for name in ("delay",) if name in options}
    process = os.fork()
    if process == 0:
        try:
            load = lambda: batch_task.load(**arguments)
            run_file(load, folder / "in.jsonl", output, format=FORMAT, identity=IDENTITY, part_bytes=2**12, **options)
        except BaseException as error:
            print(repr(error))
            os._exit(1)
        os._exit(0)
    return process

def status(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def check(output):
    for ending in (".jsonl", ".failures.jsonl"):
        ours, whole = (path.with_name(path.stem + ending).read_bytes() for path in (output, folder / "whole.jsonl"))
        assert ours == whole, output
    assert not list(folder.glob("**/*.partial"))

assert status(start(folder / "whole.jsonl")) == 0
"""

_RANDOM_KILLS = """
shards = int(sys.argv[2])
chance = random.Random(shards)
output = folder / "out.jsonl"
kills = tries = 0
while kills < 20:
    tries += 1
    processes = [start(output, delay=0.001, shard=(k, shards) if shards > 1 else None) for k in range(shards)]
    time.sleep(chance.uniform(0, 0.2))
    for process in processes:
        os.kill(process, signal.SIGKILL)
    statuses = [status(process) for process in processes]
    assert set(statuses) <= {-signal.SIGKILL, 0}, statuses
    killed = statuses.count(-signal.SIGKILL)
    kills += killed
    if output.exists():
        check(output)
        os.rename(output, folder / f"finished{tries}.jsonl")
        import shutil
        shutil.rmtree(folder / "out.parts")
print("kills:", kills, "tries:", tries)
for k in range(shards):
    assert status(start(output, shard=(k, shards) if shards > 1 else None)) == 0
check(output)
"""

# As a kill, at every single change of the disk.
_EVERY_STEP = """
import pathlib
def die_at(step):
    def counted(function):
        def call(*arguments, **options):
            nonlocal step
            step -= 1
            if step == 0:
                os._exit(9)
            return function(*arguments, **options)
        return call
    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    pathlib.Path.unlink = counted(pathlib.Path.unlink)

for step in range(1, 1000):
    output = folder / f"out{step}.jsonl"
    process = os.fork()
    if process == 0:
        die_at(step)
        os._exit(status(start(output)) and 9)
    if status(process) == 0:
        break
    again = start(output)
    assert status(again) == 0
    check(output)
print("steps:", step)
assert step > 20
"""


# A file that may not grow further is torn in the middle of a write.
_TORN = """
import resource
for limit in (1, 100, 400, 1000, 3000, 4500, 6000, 8000):
    output = folder / f"out{limit}.jsonl"
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        os._exit(status(start(output)))
    assert status(process) == 1, limit
    assert not output.exists() and status(start(output)) == 0
    check(output)
"""


def driver(folder: Path, script: str, *arguments: str, records: int) -> str:
    write_input(folder / "in.jsonl", records)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, "-c", _DRIVER + script, str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("shards", [1, 2])
def test_twenty_kills(tmp_path: Path, shards: int) -> None:
    print(driver(tmp_path, _RANDOM_KILLS, str(shards), records=2000))


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    print(driver(tmp_path, _EVERY_STEP, records=80))


_MODEL = """
import sys
import batch_model_task as task
from bart_eqx.batch import run_file
run_file(task.load, sys.argv[1], sys.argv[2], format=task.FORMAT, identity=task.identity(), part_bytes=256)
"""


@pytest.mark.slow
def test_kills_of_a_model(tmp_path: Path) -> None:
    """As above, with a model: what it computes for a part depends on nothing but the part."""
    (tmp_path / "in.jsonl").write_text("".join(f"{index * 7919 % 10 ** (1 + index % 6)}\n" for index in range(700)))
    options: dict[str, Any] = dict(
        format=batch_model_task.FORMAT,
        identity=batch_model_task.identity(),
        part_bytes=256,
        load=batch_model_task.load,
    )
    whole = run(tmp_path, "whole.jsonl", **options)
    assert whole.parts >= 10 and whole.failed == 0 and whole.records == 700
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    chance = random.Random(0)
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _MODEL, str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")], env=environment
        )
        while len(list(tmp_path.glob("out.parts/part-*"))) <= kill:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    report = run(tmp_path, **options)
    assert report.complete and 0 < report.computed < report.parts
    for index in (1, 0):
        run(tmp_path, "shards.jsonl", shard=(index, 2), **options)
    for name in ("out.jsonl", "shards.jsonl"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_write_that_is_torn(tmp_path: Path) -> None:
    assert driver(tmp_path, _TORN, records=80).count("(File too large)") == 8


_COMMAND = """
import sys
import batch_task
from bart_eqx.batch import Stop, run_file, run_stream
def main():
    if len(sys.argv) == 1:
        run_stream(batch_task.load(), sys.stdin.buffer, sys.stdout.buffer, format=batch_task.FORMAT,
                   on_failure=sys.stderr.buffer.write, largest_block_bytes=1)
        return 0
    with Stop() as stop:
        def load():
            print("loaded", flush=True)
            return batch_task.load(delay=0.01)
        run_file(load, sys.argv[1], sys.argv[2], format=batch_task.FORMAT, identity=batch_task.IDENTITY,
                 part_bytes=2**13, before_part=stop.check)
    return 0
"""


def command(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A process in which it is run as a command."""
    (folder / "command_of_test.py").write_text(_COMMAND)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(TESTS), *sys.path])}
    # A shell starts jobs in the background with SIGINT ignored, and these tests may be part of one.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from bart_eqx.process import run; run('command_of_test')"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_that_can_be_continued(folder: Path, number: int, status: int) -> None:
    process = command(folder, str(folder / "in.jsonl"), str(folder / "out.jsonl"))
    assert process.stdout is not None
    assert process.stdout.readline() == b"loaded\n"
    while not list(folder.glob("out.parts/part-*")):
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == status
    assert not list(folder.glob("**/*.partial")) and not (folder / "out.jsonl").exists()
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


def test_a_pipe_that_nobody_reads_any_more_ends_a_stream_quietly(folder: Path) -> None:
    process = command(folder)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b'{"text": "abc"}\n')
    process.stdin.flush()
    assert process.stdout.readline() == b'{"id": 1, "reversed": "cba"}\n'  # before the input has ended
    process.stdout.close()
    process.stdin.write(b'{"text": "abc"}\n' * 3)
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait(timeout=10) == 141
    process.stderr.close()


class Flushed(io.BytesIO):
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.mark.parametrize(("first", "largest", "blocks"), [(2**30, 2**30, 1), (2**11, 2**13, 7), (2**11, 1, 303)])
def test_a_stream_is_the_file(folder: Path, first: int, largest: int, blocks: int) -> None:
    """Its blocks grow, so that the first results are early."""
    out, failures = Flushed(), list[bytes]()
    with (folder / "in.jsonl").open("rb") as file:
        counts = run_stream(
            batch_task.load(),
            file,
            out,
            format=FORMAT,
            on_failure=failures.append,
            block_bytes=first,
            largest_block_bytes=largest,
        )
    assert (out.getvalue(), b"".join(failures)) == contents(folder, "whole") and counts == (299, 3)
    assert out.flushes == blocks


# What it costs


_PEAK = """
import sys
import batch_task
from bart_eqx.batch import run_file
run_file(batch_task.load, sys.argv[1], sys.argv[2], format=batch_task.FORMAT, identity={}, part_bytes=2**18)
assert "jax" not in sys.modules
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    block = write_input(tmp_path / "block", 10_000).read_bytes()
    peaks = []
    for megabytes in (4, 50):
        with (tmp_path / "in.jsonl").open("wb") as file:
            while file.tell() < megabytes * 10**6:
                file.write(block)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        command = [sys.executable, "-c", _PEAK, str(tmp_path / "in.jsonl"), str(tmp_path / f"out{megabytes}.jsonl")]
        peaks.append(int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout))
    assert peaks[1] <= 1.1 * peaks[0], peaks
