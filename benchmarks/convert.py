"""How long a conversion takes, and how much memory: a random checkpoint of bart-base's real size, from Flax's msgpack.

    .venv/bin/python benchmarks/convert.py [--keep FOLDER]

Runs `python -m bart_eqx.convert` as a process of its own, several times, and prints the median wall time and the
largest peak of resident memory, beside the floor: reading the file once and writing it once, as `cp` does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

import bart_eqx
from bart_eqx.checkpoint.flax_msgpack import write_msgpack
from bart_eqx.checkpoint.names import to_flax_leaf
from bart_eqx.checkpoint.pytree import named_parameters


BART_BASE = bart_eqx.BartConfig(
    d_model=768,
    encoder_layers=6,
    decoder_layers=6,
    encoder_attention_heads=12,
    decoder_attention_heads=12,
    encoder_ffn_dim=3072,
    decoder_ffn_dim=3072,
)


def make_checkpoint(folder: Path) -> Path:
    """A folder as transformers' Flax would save it, with random numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    skeleton = eqx.filter_eval_shape(bart_eqx.BartForConditionalGeneration, BART_BASE, key=jax.random.key(0))
    tensors = {
        name: 0.02 * rng.standard_normal(leaf.shape, np.float32) for name, leaf in named_parameters(skeleton).items()
    }
    write_msgpack(folder / "flax_model.msgpack", dict(to_flax_leaf(name, array) for name, array in tensors.items()))
    fields = BART_BASE.to_dict() | {"architectures": ["BartForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "flax_model.msgpack"


def run(command: list[str]) -> tuple[float, float]:
    """Seconds, and megabytes of resident memory at the peak, of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed with status {status}.")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="make the checkpoint here, and leave it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = options.keep or Path(scratch) / "bart-base"
        weights = make_checkpoint(source)
        size = weights.stat().st_size / 2**20
        target = Path(scratch) / "converted"
        convert = [sys.executable, "-m", "bart_eqx.convert", str(source), "-o", str(target), "--overwrite"]
        copy = ["cp", str(weights), str(Path(scratch) / "copy")]
        conversions, copies = [], []
        for _ in range(options.repeats):  # in turn, as machines drift
            conversions.append(run(convert))
            copies.append(run(copy))
    seconds, floor = (statistics.median(seconds for seconds, _ in runs) for runs in (conversions, copies))
    peak = max(megabytes for _, megabytes in conversions)
    print(f"checkpoint      {size:8.0f} MiB")
    print(f"conversion      {seconds:8.2f} s, {seconds / floor:.1f} times a copy of the file ({floor:.2f} s)")
    print(f"resident memory {peak:8.0f} MiB at the peak, {peak / size:.2f} times the checkpoint")


if __name__ == "__main__":
    main()
