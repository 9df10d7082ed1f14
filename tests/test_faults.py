"""Faults during a conversion: the target's name always refers to the old folder or the new one, complete."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bart_eqx
from bart_eqx.checkpoint import atomic_folder
from bart_eqx.checkpoint.architectures import ARCHITECTURES, parameter_shapes
from bart_eqx.checkpoint.errors import DamagedFileError, TargetError
from bart_eqx.checkpoint.formats import safetensors, writer
from bart_eqx.convert import convert, main
from support import configured, random_model, write_file


REFERENCES = Path(__file__).parent / "references"
OLD, NEW = REFERENCES / "flax-msgpack", REFERENCES / "torch-untied"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The result of an earlier conversion."""
    convert(OLD, tmp_path / "target")
    return tmp_path / "target"


@pytest.fixture
def unchanged(target: Path) -> Iterator[None]:
    before = content(target)
    yield
    assert content(target) == before and [path.name for path in target.parent.iterdir()] == ["target"]


def source_of(folder: Path, layers: int, seed: int) -> Path:
    """A checkpoint of some megabytes, so that a conversion takes long enough to be killed."""
    config = bart_eqx.BartConfig(
        vocab_size=500,
        d_model=128,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        encoder_layers=layers,
        decoder_layers=layers,
    )
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(ARCHITECTURES["BartForConditionalGeneration"], config)
    folder.mkdir()
    write_file(
        folder / "model.safetensors", {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    )
    fields = config.to_dict() | {"architectures": ["BartForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


# Forks for each conversion, so that kills do not hit the start of an interpreter. They come within a duration that
# grows after each hit and shrinks after each miss: some conversions complete even if the machine slows down.
_DRIVER = """
import os, signal, sys, time, random
from pathlib import Path
from bart_eqx.convert import convert
sources, target, kills = sys.argv[1:3], sys.argv[3], int(sys.argv[4])
def child(source):
    pid = os.fork()
    if pid == 0:
        convert(source, target, overwrite=True)
        os._exit(0)
    return pid
os.waitpid(child(sources[0]), 0)
start = time.time()
os.waitpid(child(sources[1]), 0)
duration = time.time() - start
chance = random.Random(0)
for index in range(kills):
    pid = child(sources[index % 2])
    time.sleep(chance.uniform(0, duration))
    os.kill(pid, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    duration *= 1.1 if killed else 0.7
    print(killed, flush=True)
    assert sys.stdin.readline() == "next\\n"
"""


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    sources = [source_of(tmp_path / "one", 3, 0), source_of(tmp_path / "two", 4, 1)]
    convert(sources[0], tmp_path / "first")
    convert(sources[1], tmp_path / "second")
    whole = [content(tmp_path / "first"), content(tmp_path / "second")]
    (tmp_path / "here").mkdir()
    target = tmp_path / "here/target"
    command = [sys.executable, "-c", _DRIVER, *map(str, sources), str(target), "50"]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdin is not None and driver.stdout is not None
    killed, seen = 0, set()
    for _ in range(50):
        killed += driver.stdout.readline() == "True\n"
        found = content(target)
        assert found in whole
        seen.add(whole.index(found))
        driver.stdin.write("next\n")
        driver.stdin.flush()
    driver.communicate()
    assert driver.returncode == 0 and killed >= 15 and seen == {0, 1}
    bart_eqx.from_pretrained(target)
    for left in target.parent.glob(".bart_eqx-*"):
        os.utime(left, (0, 0))
    convert(sources[0], target, overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_what_lives_is_not_swept(tmp_path: Path) -> None:
    for name in ("young", "old", "alive"):
        (tmp_path / f".bart_eqx-{name}.partial").mkdir()
    for name in ("old", "alive"):
        os.utime(tmp_path / f".bart_eqx-{name}.partial", (0, 0))
    lock = atomic_folder._lock(tmp_path / ".bart_eqx-alive.partial")
    assert lock is not None
    convert(OLD, tmp_path / "target")
    os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".bart_eqx-alive.partial", ".bart_eqx-young.partial", "target"
    ]  # fmt: skip


@pytest.mark.usefixtures("unchanged")
class TestWriting:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
    def test_a_disk_that_fails(
        self, target: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = 0

        def write(descriptor: int, view: memoryview) -> None:
            nonlocal written
            written += len(view)
            if written > 5000:
                raise OSError(number, os.strerror(number))
            os.write(descriptor, view)

        monkeypatch.setattr(writer, "_write_all", write)
        assert main([str(NEW), "-o", str(target), "--overwrite"]) == 2
        assert f"cannot be written ({os.strerror(number)})" in (error := capsys.readouterr().err)
        assert error.count("\n") == 1 and "The existing folder is unchanged." in error

    def test_a_limit_on_the_size_of_files(self, target: Path) -> None:
        """The system's own error: Python ignores the signal and raises it."""
        script = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
            "from bart_eqx.convert import main; sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-B", "-c", script, str(NEW), "-o", str(target), "--overwrite"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "cannot be written (File too large)" in done.stderr

    def test_no_room(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(target)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7))
        with pytest.raises(TargetError, match=r"needs 14,096 bytes, and 7 are free"):
            convert(NEW, target, overwrite=True)

    def test_ctrl_c(self, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(writer, "_write_all", lambda *_: signal.raise_signal(signal.SIGINT))
        # What a shell runs in the background is started with Ctrl-C ignored, and Python leaves it so.
        inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert main([str(NEW), "-o", str(target), "--overwrite"]) == 130
        finally:
            signal.signal(signal.SIGINT, inherited)
        assert capsys.readouterr().err == "interrupted: the target is unchanged, or complete if it was just renamed.\n"

    def test_an_exchange_that_fails_in_the_middle(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A system that cannot exchange two folders renames three times."""
        rename, calls = os.rename, []

        def fail_once(one: Any, other: Any) -> None:
            calls.append(one)
            if len(calls) == 2:
                raise OSError(errno.EIO, "broken")
            rename(one, other)

        monkeypatch.setattr(sys, "platform", "other")
        monkeypatch.setattr(os, "rename", fail_once)
        with pytest.raises(TargetError, match="broken"):
            convert(NEW, target, overwrite=True)
        assert len(calls) == 3

    @pytest.mark.parametrize("how", ["truncated", "replaced", "removed"])
    def test_a_source_that_changes(
        self, target: Path, how: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tmp_path_factory.mktemp("source") / "model"
        shutil.copytree(NEW, source)
        weights = source / "model.safetensors"

        def change(*_: Any) -> None:
            if how == "truncated":
                os.truncate(weights, 9000)
            elif how == "removed":
                weights.unlink(missing_ok=True)
            else:
                shutil.copy(weights, source / "copy")
                os.replace(source / "copy", weights)

        monkeypatch.setattr("bart_eqx.convert.conversion.check_space", change)
        with pytest.raises(DamagedFileError, match="model.safetensors (was changed while|can no longer be read)"):
            convert(source, target, overwrite=True)


def test_three_renames(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "other")
    convert(NEW, target, overwrite=True)
    assert content(target) != content(OLD) and [path.name for path in target.parent.iterdir()] == ["target"]


def test_two_conversions_at_once(tmp_path: Path) -> None:
    """The folder is one's or the other's, and readers never find it missing or incomplete."""
    target = tmp_path / "target"
    convert(OLD, tmp_path / "one")
    convert(NEW, tmp_path / "two")
    whole = [content(tmp_path / "one"), content(tmp_path / "two")]
    convert(OLD, target)
    script = (
        "import sys; from bart_eqx.convert import convert\nfor _ in range(20): convert(*sys.argv[1:3], overwrite=True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(source), str(target)]) for source in (OLD, NEW)]
    seen = set()
    while any(process.poll() is None for process in running):
        folder = os.open(target, os.O_RDONLY)  # the same folder even when the name is exchanged
        names = set(os.listdir(folder))
        with contextlib.suppress(FileNotFoundError):  # it was replaced, and is being removed
            weights = os.open("model.safetensors", os.O_RDONLY, dir_fd=folder)
            found = os.read(weights, 10**6)
            os.close(weights)
            seen.add([w["model.safetensors"] for w in whole].index(found))
        assert names in [set(w) for w in whole] or os.fstat(folder).st_ino != target.stat().st_ino
        os.close(folder)
    assert [process.returncode for process in running] == [0, 0] and seen == {0, 1}
    assert content(target) in whole


def test_of_two_that_may_not_overwrite_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"

    def meanwhile(*_: Any) -> None:
        monkeypatch.undo()
        convert(OLD, target)

    monkeypatch.setattr("bart_eqx.convert.conversion.check_space", meanwhile)
    with pytest.raises(TargetError, match="was created by another process meanwhile"):
        convert(NEW, target)
    convert(OLD, tmp_path / "other")
    assert content(target) == content(tmp_path / "other")


def test_what_appears_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """The target's files are checked again when it is replaced."""
    target = tmp_path / "target"
    with (
        pytest.raises(TargetError, match="holds files that no conversion writes: 'thesis.tex'"),
        atomic_folder.atomic_folder(target, replaceable=["config.json"]),
    ):
        target.mkdir()
        (target / "thesis.tex").write_text("years")
    with (
        pytest.raises(TargetError, match="was replaced by a file meanwhile"),
        atomic_folder.atomic_folder(tmp_path / "other", replaceable=["config.json"]),
    ):
        (tmp_path / "other").write_text("a file")
    assert content(target) == {"thesis.tex": b"years"} and (tmp_path / "other").read_text() == "a file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "target"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    convert(OLD, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_file_that_is_replaced_before_its_arrays_are_read(tmp_path: Path) -> None:
    """Both are valid and of the same size: the header of one would be used with the values of the other."""
    one, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    write_file(one, {"x": np.zeros(4, np.float32), "y": np.ones(4, np.float32)}, "pt")
    write_file(other, {"x": np.ones(4, np.float32), "y": np.zeros(4, np.float32)}, "pt")
    opened = safetensors.safe_open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors, "safe_open", lambda *a, **k: (os.replace(other, one), opened(*a, **k))[1])
        arrays = safetensors.read_safetensors(one)
    with pytest.raises(DamagedFileError, match="was changed while it was read"):
        arrays["x"].read()


class TestTargets:
    def test_where_you_are(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(target)
        with pytest.raises(TargetError, match="holds the current directory"):
            convert(NEW, ".", overwrite=True)

    def test_a_folder_that_may_not_be_looked_into(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "iterdir", refuse)
            with pytest.raises(TargetError, match="cannot be listed"):
                atomic_folder.check_target(target, overwrite=True, replaceable=())
        with pytest.raises(TargetError, match="is not a valid path"):
            convert(NEW, "~nobody-of-that-name/x")

    def test_a_link(self, target: Path, tmp_path: Path) -> None:
        """The folder behind it is replaced, and the link stays."""
        (tmp_path / "link").symlink_to("target")
        convert(NEW, tmp_path / "link", overwrite=True)
        assert (tmp_path / "link").is_symlink()
        assert json.loads((target / "conversion.json").read_text())["source"] == "torch-untied"
        (tmp_path / "dangling").symlink_to("new")
        convert(NEW, tmp_path / "dangling")
        assert content(tmp_path / "new") == content(target)

    def test_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        shutil.copytree(OLD, tmp_path / "holder/source")
        for source, name, message in (
            (OLD, "file", "is a file"),
            (OLD, "file/below", "is not writable"),
            (OLD, "x" * 300, "is not a valid path|longer than 255 bytes"),
            (tmp_path / "holder/source", "holder", "is the source or contains it"),
            (tmp_path / "holder/source", "holder/source", "is the source or contains it"),
        ):
            with pytest.raises(TargetError, match=message):
                convert(source, tmp_path / name, overwrite=True)
        assert content(tmp_path / "holder/source") == content(OLD)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(TargetError, match="is not writable"):
            convert(OLD, tmp_path / "target")
        tmp_path.chmod(0o700)

    def test_what_no_conversion_wrote_is_not_lost(self, target: Path) -> None:
        (target / "thesis.tex").touch()
        with pytest.raises(TargetError, match="holds files that no conversion writes: 'thesis.tex'"):
            convert(NEW, target, overwrite=True)
        assert (target / "thesis.tex").exists()

    @pytest.mark.parametrize("mask", [0o022, 0o027])
    def test_permissions(self, tmp_path: Path, mask: int) -> None:
        before = os.umask(mask)
        try:
            convert(OLD, tmp_path / "target")
            assert {path.stat().st_mode & 0o777 for path in (tmp_path / "target").iterdir()} == {0o666 & ~mask}
            assert (tmp_path / "target").stat().st_mode & 0o777 == 0o777 & ~mask
            (tmp_path / "target").chmod(0o750)
            convert(NEW, tmp_path / "target", overwrite=True)
            assert (tmp_path / "target").stat().st_mode & 0o777 == 0o750
        finally:
            os.umask(before)

    def test_odd_names(self, tmp_path: Path) -> None:
        shutil.copytree(OLD, tmp_path / "a\nb 🦊")
        done = convert(tmp_path / "a\nb 🦊", tmp_path / "c\nd")
        assert done.source == "a\\nb 🦊" and "\n" not in done.source
        bart_eqx.from_pretrained(tmp_path / "c\nd")

    def test_the_same_bytes_again(self, target: Path, tmp_path: Path) -> None:
        for seed in ("1", "2"):
            command = [sys.executable, "-m", "bart_eqx.convert", str(OLD), "-o", str(tmp_path / seed)]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed})
            assert content(tmp_path / seed) == content(target)


def test_saving_into_a_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other files stay, and old ones until the new ones are complete."""
    one, two = (random_model(bart_eqx.BartModel, configured("unequal"), seed=seed) for seed in (0, 1))
    bart_eqx.save_pretrained(one, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = content(tmp_path)
    killed = tmp_path / ".bart_eqx-killed.partial"
    killed.mkdir()
    os.utime(killed, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_all", lambda *_: random.choice([]))
        with pytest.raises(IndexError):
            bart_eqx.save_pretrained(two, tmp_path)
    assert content(tmp_path) == before
    bart_eqx.save_pretrained(two, tmp_path)
    assert content(tmp_path).keys() == before.keys() and (tmp_path / "notes.txt").read_text() == "mine"
    loaded: Any = bart_eqx.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.shared.weight, two.shared.weight)
