"""`python -m bart_eqx.convert`, and the demo, as a newcomer meets them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from num2words import num2words

import bart_eqx
from bart_eqx.checkpoint.flax_msgpack import read_msgpack
from bart_eqx.convert import main
from bart_eqx.demo.__main__ import main as demo, spell
from support import values


REFERENCES = Path(__file__).parent / "references"


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    assert main([str(REFERENCES / "flax-msgpack"), "-o", str(target)]) == 0
    report = capsys.readouterr().out
    for part in ("flax_model.msgpack", "BartForConditionalGeneration", "76 float32", "2,540, float32", "blake3"):
        assert part in report
    assert main([str(REFERENCES / "flax-msgpack"), "-o", str(target)]) == 2
    assert "exists: take another folder with -o, or --overwrite" in capsys.readouterr().err
    assert main([str(REFERENCES / "flax-msgpack"), "-o", str(target), "--overwrite", "--dtype", "bfloat16"]) == 0
    assert bart_eqx.from_pretrained(target).final_logits_bias.dtype == "bfloat16"
    assert main([str(target), "-o", str(target), "--overwrite"]) == 2
    assert "is the source itself" in capsys.readouterr().err


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
        done.stderr == f"error: There is no folder {tmp_path / 'nowhere'}: look at its spelling, and where you are.\n"
    )


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
