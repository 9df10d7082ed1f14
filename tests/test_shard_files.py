"""Checkpoints and models whose arrays are sharded. `sharded_files.py` has eight devices; here are the parts."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import bart_eqx
from bart_eqx.checkpoint.architectures import ARCHITECTURES, parameter_shapes
from bart_eqx.checkpoint.errors import DamagedFileError
from bart_eqx.checkpoint.formats import lazy_array, msgpack
from bart_eqx.checkpoint.formats.lazy_array import LazyArray, bounds, from_numpy, runs
from bart_eqx.checkpoint.formats.msgpack import read_msgpack
from bart_eqx.checkpoint.formats.safetensors import read_safetensors
from bart_eqx.checkpoint.place import placement
from bart_eqx.checkpoint.write import arrange, config_fields, write_json, write_weights
from subprocesses import ends_well, free_port, start
from support import configured, values, write_file


CONFIG = configured(
    "unequal", d_model=16, vocab_size=97, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_layers=1, decoder_layers=1,
)  # fmt: skip


def write_index(source: Path, target: Path) -> None:
    """The checkpoint of a folder, as three files and their index."""
    target.mkdir(exist_ok=True)
    arrays = values(read_safetensors(source / "model.safetensors"))
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    files = {name: names[position % 3] for position, name in enumerate(arrays)}
    for file in names:
        write_file(target / file, {name: arrays[name] for name in arrays if files[name] == file})
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (target / "config.json").write_bytes((source / "config.json").read_bytes())


@st.composite
def parts(draw: Any) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    pairs = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    index = tuple(slice(None) if draw(st.booleans()) else slice(*pair) for pair in pairs)
    return shape, index[: draw(st.integers(0, len(index)))]


@given(parts())
@settings(deadline=None)
def test_parts(case: tuple[tuple[int, ...], tuple[slice, ...]]) -> None:
    """Of arrays of any rank: the values that NumPy would cut out, in the longest stretches."""
    shape, index = case
    whole = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    wanted = whole[(*index, ...)]
    found = list(runs(shape, index))
    assert [n for first, length in found for n in range(first, first + length)] == wanted.reshape(-1).tolist()
    assert all(b > a + length for (a, length), (b, _) in itertools.pairwise(found))
    lazy = from_numpy(whole)
    assert np.array_equal(lazy.read(index), wanted)
    transposed = lazy.T.read(index[::-1] if len(index) == len(shape) else ())
    assert np.array_equal(transposed, (wanted if len(index) == len(shape) else whole).T)
    assert np.array_equal(lazy.map(lambda part: part * 2).read(index), wanted * 2)


@pytest.fixture(params=["model.safetensors", "flax_model.msgpack", "chunks"])
def stored(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LazyArray, np.ndarray]:
    """A matrix in a file; also in the chunks of a long array, none of which ends with a row."""
    matrix = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
    monkeypatch.setattr(msgpack, "_MAX_CHUNK", 500 if request.param == "chunks" else 2**30)
    path = tmp_path / ("flax_model.msgpack" if request.param == "chunks" else request.param)
    write_file(path, {"x": matrix})
    return (read_safetensors if path.suffix == ".safetensors" else read_msgpack)(path)["x"], matrix


class CountedFile:
    """A file that counts what is read of it."""

    def __init__(self, file: Any):
        self.file, self.count = file, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.count += count
        return count


def test_only_a_part_of_a_file_is_read(stored: tuple[LazyArray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    lazy, matrix = stored
    opened: list[CountedFile] = []
    open_path = Path.open

    def counting(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(CountedFile(open_path(path, *args, **options)))
        return _Closing(opened[-1])

    for index in [(), (slice(8, 16),), (slice(None), slice(6, 12)), (slice(3, 37), slice(23, 24))]:
        opened.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", counting)
            part = lazy.read(index)
        assert np.array_equal(part, matrix[index]) and part.flags.c_contiguous
        assert sum(file.count for file in opened) == part.nbytes
        assert np.array_equal(
            lazy.T.read(index[::-1] if len(index) == 2 else ()), (part if len(index) == 2 else matrix).T
        )


class _Closing:
    def __init__(self, file: CountedFile):
        self.file = file

    def __enter__(self) -> CountedFile:
        return self.file

    def __exit__(self, *error: Any) -> None:
        self.file.file.close()


def test_a_file_that_changes_between_parts(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_file(path, {"x": np.ones((4, 4), np.float32)})
    lazy = read_safetensors(path)["x"]
    lazy.read((slice(0, 2), slice(0, 2)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedFileError, match="was changed while it was read"):
        lazy.read((slice(0, 2), slice(0, 2)))


def test_equal_arrays_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the comparison ends with the first block that differs."""
    monkeypatch.setattr(lazy_array, "_COMPARED", 64)
    one = np.arange(40, dtype=np.float32).reshape(10, 4)
    read: list[Any] = []
    logged = LazyArray(one.shape, one.dtype, lambda index=(): (read.append(bounds(one.shape, index)), one[index])[1])
    assert lazy_array.equal(logged, from_numpy(one.copy()))
    assert [rows for rows, _ in read] == [(0, 4), (4, 8), (8, 10)]
    for changed, visited in ((0, 1), (9, 3)):
        other = one.copy()
        other[changed, 3] += 1
        read.clear()
        assert not lazy_array.equal(logged, from_numpy(other)) and len(read) == visited
    for shape in ((), (0, 3), (3, 0)):
        assert lazy_array.equal(from_numpy(np.zeros(shape)), from_numpy(np.zeros(shape)))


class Held:
    """A sharding of which this process has some devices."""

    def __init__(self, *indices: tuple[slice, ...]):
        self.indices = indices

    def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> dict[int, tuple[slice, ...]]:
        return dict(enumerate(self.indices))


def columns(*numbers: int) -> tuple[tuple[slice, ...], ...]:
    return tuple((slice(None), slice(2 * number, 2 * number + 2)) for number in numbers)


@pytest.mark.parametrize(
    "held, reads",
    [
        (columns(0, 1, 2, 3), [((0, 6), (0, 8))]),
        (columns(2, 3), [((0, 6), (4, 8))]),
        (columns(3, 1), [((0, 6), (2, 4)), ((0, 6), (6, 8))]),  # not what lies between them
        (((),) * 4, [((0, 6), (0, 8))]),  # the whole, once for all devices
        (((slice(0, 3), slice(0, 4)), (slice(3, 6), slice(4, 8))), [((0, 3), (0, 4)), ((3, 6), (4, 8))]),
        ((), []),
    ],
)
def test_what_a_process_reads(held: Any, reads: Any) -> None:
    matrix = np.arange(48, dtype=np.float32).reshape(6, 8)
    sharding: Any = Held(*held)
    place = placement(matrix.shape, sharding)
    assert list(place.reads) == reads
    read = place.read(from_numpy(matrix))
    assert sum(part.nbytes for part in read) == place.nbytes(matrix.dtype) <= matrix.nbytes
    assert place.holds.keys() == {bounds(matrix.shape, index) for index in held}


def test_eight_devices(tmp_path: Path) -> None:
    """Straight from files to shards, and back."""
    ends_well(start("sharded_files.py", 8, str(tmp_path)))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="`rules` were given without a `mesh`"):
        bart_eqx.from_pretrained("demo", rules=())


def write_large(folder: Path, file: str) -> None:
    """A checkpoint of bart-large's shapes in float32, 1.6 GB, with random values."""
    config = bart_eqx.BartConfig(
        d_model=1024, encoder_layers=12, decoder_layers=12, encoder_attention_heads=16, decoder_attention_heads=16,
        encoder_ffn_dim=4096, decoder_ffn_dim=4096,
    )  # fmt: skip
    shapes = parameter_shapes(ARCHITECTURES["BartForConditionalGeneration"], config)
    values = np.random.default_rng(0).standard_normal(max(map(math.prod, shapes.values())), np.float32)
    arrays = {name: from_numpy(values[: math.prod(shape)].reshape(shape)) for name, shape in shapes.items()}
    to = "flax" if file.endswith(".msgpack") else "safetensors"
    tensors = arrange(arrays, to, tied=True)
    folder.mkdir()
    write_weights(folder / file, tensors, to)
    write_json(folder / "config.json", config_fields("BartForConditionalGeneration", config.to_dict(), tensors))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "flax_model.msgpack"])
def test_what_a_large_checkpoint_takes(tmp_path: Path, file: str) -> None:
    """On eight devices of one process, and of two. Each byte that a process holds is read once."""
    folder = tmp_path / "large"
    write_large(folder, file)
    port = free_port()
    for devices, ranks in ((8, [()]), (4, [(port, "0"), (port, "1")])):
        processes = [start("sharded_load.py", devices, str(folder), *rank) for rank in ranks]
        for process in processes:
            took = json.loads(ends_well(process).splitlines()[-2])
            print(file, devices, took)
            assert took["whole"] > 1.6e9 and took["own"] < 1.01 * took["whole"] / len(ranks)
            assert took["read"] < 1.02 * took["own"]  # msgpack has its headers between the arrays: measured 1.015
            assert took["peak"] < 1.3 * took["own"] + 200e6  # measured: 1.18 of the own share, 1.34 of a half
    shutil.rmtree(folder)
