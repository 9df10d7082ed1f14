"""Fuzz the readers with atheris, which searches for files that reach new code.

    pip install --group fuzz
    python scripts/fuzz.py {msgpack,safetensors,json,index} [-runs=N] [-max_total_time=SECONDS]

Starts from small files of the tests. A finding is an exception that is not a `CheckpointError`, or a file that takes
more than five seconds or 512 MB (libFuzzer's limits).
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["bart_eqx.checkpoint", "bart_eqx.config"]):
    from bart_eqx.checkpoint.errors import CheckpointError
    from bart_eqx.checkpoint.formats.json import read_json
    from bart_eqx.checkpoint.formats.msgpack import read_msgpack
    from bart_eqx.checkpoint.formats.safetensors import read_safetensors
    from bart_eqx.checkpoint.formats.shards import read_arrays
    from bart_eqx.checkpoint.read import configuration_errors
    from bart_eqx.config import BartConfig


REFERENCES = Path(__file__).parents[1] / "tests/references"


def configured(path: Path) -> None:
    fields = read_json(path)
    with configuration_errors(path):
        BartConfig.from_dict(fields)


READERS = {
    "msgpack": ("flax_model.msgpack", read_msgpack, "flax-msgpack*/*.msgpack"),
    "safetensors": ("model.safetensors", read_safetensors, "*/*.safetensors"),
    "json": ("config.json", configured, "*/*config.json"),
    "index": ("model.safetensors.index.json", read_arrays, "*/*.index.json"),
}


def main() -> None:
    kind = sys.argv.pop(1)
    name, reader, seeds = READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        corpus, path = Path(folder) / "corpus", Path(folder) / name
        corpus.mkdir()
        for number, seed in enumerate(sorted(REFERENCES.glob(seeds))):
            (corpus / str(number)).write_bytes(seed.read_bytes())

        def one_file(content: bytes) -> None:
            path.write_bytes(content)
            try:
                found = reader(path)
                for array in (found or {}).values():
                    array.read()
            except CheckpointError as error:
                assert str(error).isprintable()

        atheris.Setup([*sys.argv, "-rss_limit_mb=512", "-timeout=5", "-max_len=20000", str(corpus)], one_file)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
