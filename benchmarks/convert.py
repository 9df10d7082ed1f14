"""Time and memory of converting a checkpoint of real size, with random weights, from Flax's msgpack.

    .venv/bin/python benchmarks/convert.py [--size base|large] [--keep FOLDER]

Runs `python -m bart_eqx.convert` in its own process several times, alternating with a copy of the file that is flushed
to the disk like the conversion (`cp`, then `sync`). Removing the previous output is not timed. Prints the median wall
times and the largest peak of resident memory, with their limits: twice the time of the copy, and 1.3 times the size.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import bart_eqx
from bart_eqx.checkpoint.architectures import ARCHITECTURES, parameter_shapes
from bart_eqx.checkpoint.formats.lazy_array import LazyArray
from bart_eqx.checkpoint.formats.msgpack import msgpack_parts
from bart_eqx.checkpoint.formats.writer import write_parts
from bart_eqx.checkpoint.names import to_flax_leaf


CONFIGS = {
    "base": bart_eqx.BartConfig(
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    ),
    "large": bart_eqx.BartConfig(),
}


def make_checkpoint(folder: Path, config: bart_eqx.BartConfig) -> Path:
    """A folder of random weights, as transformers' Flax saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def random(shape: tuple[int, ...]) -> LazyArray:
        draw = lambda index=(): 0.02 * rng.standard_normal(shape, np.float32)[index]
        return LazyArray(shape, np.dtype(np.float32), draw)

    shapes = parameter_shapes(ARCHITECTURES["BartForConditionalGeneration"], config)
    tensors = dict(to_flax_leaf(name, random(shape)) for name, shape in shapes.items())
    (folder / "flax_model.msgpack").unlink(missing_ok=True)
    write_parts(folder / "flax_model.msgpack", msgpack_parts(tensors), tensors)
    fields = config.to_dict() | {"architectures": ["BartForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "flax_model.msgpack"


def run(command: list[str]) -> tuple[float, float]:
    """The seconds of a process, and its peak of resident memory in MiB."""
    start = time.perf_counter()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed with status {status}.")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=CONFIGS, default="base")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="make the checkpoint here and keep it; use it if it exists")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = options.keep or Path(scratch) / "source"
        weights = source / "flax_model.msgpack"
        if not weights.exists():
            make_checkpoint(source, CONFIGS[options.size])
        size = weights.stat().st_size / 2**20
        target, copied = Path(scratch) / "converted", Path(scratch) / "copy"
        convert = [sys.executable, "-m", "bart_eqx.convert", str(source), "-o", str(target)]
        copy = ["sh", "-c", f"cp '{weights}' '{copied}' && sync '{copied}'"]
        conversions, copies = [], []
        for _ in range(options.repeats):  # alternating, because machines drift
            copies.append(run(copy))
            copied.unlink()
            conversions.append(run(convert))
            shutil.rmtree(target)
    seconds, floor = (statistics.median(seconds for seconds, _ in runs) for runs in (conversions, copies))
    peak = max(megabytes for _, megabytes in conversions)
    print(f"checkpoint      {size:8.0f} MiB")
    print(f"conversion      {seconds:8.2f} s, {seconds / floor:.1f} times a copy of the file ({floor:.2f} s; limit: 2)")
    print(f"resident memory {peak:8.0f} MiB at the peak, {peak / size:.2f} times the checkpoint (limit: 1.3)")


if __name__ == "__main__":
    main()
