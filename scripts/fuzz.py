"""The readers, fed by atheris, which looks for files that take them where no file before has.

    pip install --group fuzz
    python scripts/fuzz.py {msgpack,safetensors,json,index} [-runs=N] [-max_total_time=SECONDS]

Starts from small files of the tests. Whatever a reader raises but a `CheckpointError` is a finding; so is, by limits of
libFuzzer's, what takes seconds or more than 512 MB.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["bart_eqx.checkpoint", "bart_eqx.config"]):
    from bart_eqx.checkpoint.errors import CheckpointError
    from bart_eqx.checkpoint.files import read_heads
    from bart_eqx.checkpoint.flax_msgpack import read_msgpack
    from bart_eqx.checkpoint.json_file import read_json
    from bart_eqx.checkpoint.opened import explained
    from bart_eqx.checkpoint.safetensors_file import read_safetensors
    from bart_eqx.config import BartConfig


REFERENCES = Path(__file__).parents[1] / "tests/references"


def configured(path: Path) -> None:
    explained(path, lambda: BartConfig.from_dict(read_json(path)))


READERS = {
    "msgpack": ("flax_model.msgpack", read_msgpack, "flax-msgpack*/*.msgpack"),
    "safetensors": ("model.safetensors", read_safetensors, "*/*.safetensors"),
    "json": ("config.json", configured, "*/*config.json"),
    "index": ("model.safetensors.index.json", read_heads, "*/*.index.json"),
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
