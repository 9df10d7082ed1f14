"""The commands `python -m bart_eqx.convert` and `python -m bart_eqx.demo`."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
from blake3 import blake3
from num2words import num2words

import bart_eqx
from bart_eqx.checkpoint.errors import CheckpointError, VerificationError
from bart_eqx.checkpoint.formats.msgpack import read_msgpack
from bart_eqx.convert import convert, main
from bart_eqx.convert.verify import verify
from bart_eqx.demo.command import main as demo, spell
from support import values


REFERENCES = Path(__file__).parent / "references"


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    assert main([str(REFERENCES / "flax-msgpack"), "-o", str(target)]) == 0
    report = capsys.readouterr().out
    for part in ("flax_model.msgpack", "BartForConditionalGeneration", "76 float32", "2,540, float32"):
        assert part in report
    assert report.endswith(f"\nfolder      {target}\n") and "blake3" not in report
    assert main([str(REFERENCES / "flax-msgpack"), "-o", str(target)]) == 2
    assert (
        "exists: choose another folder (-o), or replace it with --overwrite (`overwrite=True`)"
        in capsys.readouterr().err
    )
    assert main([str(REFERENCES / "flax-msgpack"), "-o", str(target), "--overwrite", "--dtype", "bfloat16"]) == 0
    assert bart_eqx.from_pretrained(target, bart_eqx.BartForConditionalGeneration).final_logits_bias.dtype == "bfloat16"
    assert main([str(target), "-o", str(target), "--overwrite"]) == 2
    assert "is the source or contains it" in capsys.readouterr().err


def test_convert_to_flax_and_back(tmp_path: Path) -> None:
    assert main([str(REFERENCES / "converted"), "-o", str(tmp_path / "flax"), "--to", "flax"]) == 0
    folders = tmp_path / "flax", REFERENCES / "flax-msgpack"
    written, wanted = (values(read_msgpack(folder / "flax_model.msgpack")) for folder in folders)
    assert written.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(written[name], array)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    """No traceback, exit status 2, nothing written."""
    command = [sys.executable, "-m", "bart_eqx.convert", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert (
        done.stderr
        == f"error: There is no folder '{tmp_path / 'nowhere'}': check its spelling and the current directory.\n"
    )


def test_a_folder_where_nobody_may_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even root. The disk of such a folder says that it has no room, which is not the reason."""
    (tmp_path / "file").touch()
    for target in ("/proc/x", "/proc/x/y", str(tmp_path / "file/below")):
        assert main(["demo", "-o", target]) == 2
        message = capsys.readouterr().err
        assert "is not writable" in message and "are free" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_does_not_tell_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=0, free=0))
    convert("demo", tmp_path / "out")


class TestTheProcess:
    """Ctrl-C and a pipe that is closed are no faults: one line and a status."""

    COMMANDS = ("bart_eqx.convert", "bart_eqx.demo")

    @pytest.mark.parametrize("module", COMMANDS)
    @pytest.mark.parametrize("ignored", [False, True])
    def test_ctrl_c_during_imports(self, module: str, ignored: bool, tmp_path: Path) -> None:
        """A module that both import sends it. A shell's background job ignores it, and goes on."""
        (tmp_path / "blake3.py").write_text(
            "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise SystemExit(7)"
        )
        command = [sys.executable, "-c", _STARTED, "IGN" if ignored else "DFL", sys.executable, "-m", module, "--help"]
        path = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
        expected = (7, "") if ignored else (130, "interrupted: nothing was written.\n")
        assert (done.returncode, done.stderr) == expected

    @pytest.mark.parametrize("module", COMMANDS)
    def test_nobody_reads_the_help(self, module: str) -> None:
        assert self.with_a_closed_pipe("-m", module, "--help", PYTHONUNBUFFERED="") == (141, "")

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_nobody_reads_the_report(self, options: list[str], unbuffered: str, tmp_path: Path) -> None:
        """The folder is complete."""
        target = tmp_path / "out"
        command = ("-m", "bart_eqx.convert", "demo", "-o", str(target), *options)
        status, printed = self.with_a_closed_pipe(*command, PYTHONUNBUFFERED=unbuffered)
        assert status == 141 and printed.replace(f"folder      {target}\n", "") == ""
        assert verify(target).parameters == 849_639

    @pytest.mark.parametrize("writes", [False, True])
    def test_ctrl_c_in_a_callback(self, writes: bool, tmp_path: Path) -> None:
        """As JAX's at a garbage collection: Python prints an exception and goes on, and the interrupt is lost."""
        (tmp_path / "a_command.py").write_text(
            "import gc, os, signal\nfrom bart_eqx.process import raise_interrupts\n"
            "def callback(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n    for _ in range(9): pass\n"
            f"def main():\n    {'raise_interrupts()' if writes else 'pass'}\n"
            "    gc.callbacks.append(callback)\n    gc.collect()\n    return 0\n"
        )
        command = [sys.executable, "-c", _STARTED, "DFL", sys.executable, "-B", "-c"]
        path = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            [*command, "from bart_eqx.process import run; run('a_command')"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert (done.returncode == 130 and "Traceback" not in done.stderr) != writes

    def with_a_closed_pipe(self, *command: str, **settings: str) -> tuple[int, str]:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, *command], stdout=writing, stderr=subprocess.PIPE, text=True, env=os.environ | settings
        )
        os.close(writing)
        return done.returncode, done.stderr

    def test_no_stdout_at_all(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "bart_eqx.convert", "demo", "-o", str(tmp_path / "out")]
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    def test_what_a_status_of_main_becomes(self, tmp_path: Path) -> None:
        """And an interrupt that `main` lets through."""
        for body, status in (("return 0", 0), ("return 2", 2), ("raise KeyboardInterrupt", 130)):
            (tmp_path / "a_command.py").write_text(f"def main():\n    {body}\n")
            program = "from bart_eqx.process import run; run('a_command')"
            path = os.pathsep.join([str(tmp_path), *sys.path])
            command = [sys.executable, "-B", "-c", program]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
            assert (done.returncode, "Traceback" in done.stderr) == (status, False)


# The tests' own shell may have started them with Ctrl-C ignored, which a process inherits.
_STARTED = (
    "import os, signal, sys; signal.signal(signal.SIGINT, getattr(signal, f'SIG_{sys.argv[1]}'));"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "converted"
    convert(REFERENCES / "flax-msgpack", folder)
    return folder


def test_a_conversion_needs_no_jax(tmp_path: Path) -> None:
    """It starts in a third of the time, and leaves the accelerator to others."""
    script = "import sys; from bart_eqx.convert import main; main(sys.argv[1:]); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, "demo", "-o", str(tmp_path / "out")], check=True)


class TestVerify:
    def test_sound(self, converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--verify", str(converted)]) == 0
        report = capsys.readouterr().out
        assert "2,540 parameters, all of them finite" in report and "config.json, generation_config.json" in report
        assert main(["--verify", str(converted), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        model = bart_eqx.from_pretrained(converted, bart_eqx.BartForConditionalGeneration)
        logits = model(np.array([0, 1, 2, 3, 4, 5, 6, 2])).logits
        np.testing.assert_allclose(found["output"], logits.reshape(-1)[:5], rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "model.safetensors has the BLAKE3 hash"),
            ("model.safetensors", lambda b: b[:-1], "has 17,943 bytes, and was written with 17,944"),
            ("config.json", lambda b: b.replace(b"0.1", b"0.2"), "config.json has the BLAKE3 hash"),
            ("flax_model.msgpack", lambda b: b"\x80", "weights that conversion.json does not list, flax_model.msgpack"),
            ("generation_config.json", None, "has no generation_config.json, which conversion.json lists"),
            ("conversion.json", lambda b: b"{}", "must give the size and the hash of each written file"),
        ],
    )
    def test_damaged(self, converted: Path, tmp_path: Path, name: str, change: Any, message: str) -> None:
        shutil.copytree(converted, tmp_path / "folder")
        path = tmp_path / "folder" / name
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes() if path.exists() else b""))
        with pytest.raises(CheckpointError, match=message):
            verify(tmp_path / "folder")

    def test_verify_of_a_cache(self, tmp_path: Path) -> None:
        """The Hub client names the files of its cache by their hashes, and compares only sizes when it downloads."""
        source, blobs = REFERENCES / "converted", tmp_path / "blobs"
        blobs.mkdir()
        (tmp_path / "snapshot").mkdir()
        for path in source.iterdir():
            content = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            name = hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else git
            (blobs / name).write_bytes(content)
            (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{name}")
        assert verify(tmp_path / "snapshot").hashes == ("config.json", "generation_config.json", "model.safetensors")
        for name in ("config.json", "model.safetensors"):
            path = (tmp_path / "snapshot" / name).resolve()
            content = path.read_bytes()
            path.write_bytes(content[:-2] + b"\n\n")
            with pytest.raises(VerificationError, match=f"{name} has the hash .* and on the Hub"):
                verify(tmp_path / "snapshot")
            path.write_bytes(content)

    def test_after_another_model_was_saved_there(self, converted: Path, tmp_path: Path) -> None:
        shutil.copytree(converted, tmp_path / "target")
        model: Any = bart_eqx.from_pretrained(tmp_path / "target")
        changed = eqx.tree_at(lambda m: m.model.shared.weight, model, 2 * model.model.shared.weight)
        bart_eqx.save_pretrained(changed, tmp_path / "target")
        assert "model.safetensors" in verify(tmp_path / "target").unrecorded

    def test_a_folder_of_somebody_else(self) -> None:
        found = verify(REFERENCES / "torch-classifier")
        assert found.hashes == () and found.unrecorded == ("config.json", "model.safetensors")


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with `--json` and in conversion.json; without hashes on the model card."""
    assert main([str(REFERENCES / "torch-untied"), "-o", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"folder      {tmp_path / 'out'}\n"
    report = json.loads(printed.out)
    assert report == json.loads((tmp_path / "out/conversion.json").read_text())
    assert report["read"] == {"model.safetensors": 22200} and report["dtypes"] == {"float32": 79}
    assert (
        report["tables"] == "the encoder and the decoder have token tables of their own, as transformers 5 unties them"
    )
    assert report["missing"] == report["unexpected"] == report["warnings"] == []
    content = (tmp_path / "out/model.safetensors").read_bytes()
    assert report["written"]["model.safetensors"] == {"size": 22200, "blake3": blake3(content).hexdigest()}
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: bart_eqx\n") and "3,524 parameters" in card
    assert "conversion.json" in card and "http" not in card and "blake3" not in card


def test_the_report_says_where_the_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In full, also where the command chose it, and on one line whatever its name."""
    monkeypatch.chdir(tmp_path)
    for options, folder in (([], "demo-eqx"), (["-o", "a/../b"], "b"), (["-o", "c\nd"], "c\\nd")):
        assert main(["demo", *options]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"folder      {tmp_path}/{folder}"


def test_convert_needs_one_thing_to_do() -> None:
    for arguments in ([], ["demo", "--verify", "demo"]):
        with pytest.raises(SystemExit):
            main(arguments)


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert demo(["40217", "1,066", "-o", str(folder)]) == 0
    report = capsys.readouterr().out
    assert "40217  forty thousand two hundred and seventeen\n" in report
    assert " 1066  one thousand and sixty-six\n" in report
    assert "92 of 92 tensors equal, bit for bit" in report
    assert (folder / "tokenizer.json").exists()
    assert demo(["-o", str(folder)]) == 0
    assert "nine hundred and ninety-nine thousand nine hundred and ninety-nine" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["1000000", "-1", "twelve", "1.5", "²"])
def test_demo_refuses(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo(["--", wrong])
    assert "must be a whole number from 0 to 999,999" in capsys.readouterr().err


def test_the_demo_spells_numbers_it_has_never_seen() -> None:
    """At least 198 of 200 held-out numbers (`scripts/train_demo.py` holds out `n % 97 == 13`); measured: 200."""
    numbers = np.random.default_rng(0).choice(np.arange(13, 1_000_000, 97), 200, replace=False).tolist()
    words = spell(Path(bart_eqx.__file__).parent / "demo", [str(number) for number in numbers])
    right = sum(text == num2words(number).replace(",", "") for text, number in zip(words, numbers, strict=True))
    assert right >= 198


def test_the_demo_is_small() -> None:
    files = (Path(bart_eqx.__file__).parent / "demo").iterdir()
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 4 * 2**20
