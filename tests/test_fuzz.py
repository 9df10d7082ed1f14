"""Random files: each is read correctly, or refused in one line, quickly and with little memory.

Valid files are changed in their bytes and in their structure, and others consist of unusual parts only. The valid ones
are small, so that most changes hit a header and not the values. What a reader accepts is compared with another reader:
the safetensors library, msgpack's, Python's JSON.

The default run has about 1,500 files. `make test-slow` has more than 20,000, from other seeds.
"""

import collections
import contextlib
import json
import math
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from safetensors import SafetensorError, deserialize

from bart_eqx import BartConfig, CheckpointError
from bart_eqx.checkpoint.architectures import ARCHITECTURES, parameter_shapes
from bart_eqx.checkpoint.formats.json import read_json
from bart_eqx.checkpoint.formats.lazy_array import LazyArray
from bart_eqx.checkpoint.formats.msgpack import read_msgpack
from bart_eqx.checkpoint.formats.safetensors import read_safetensors
from bart_eqx.checkpoint.formats.shards import read_arrays
from bart_eqx.convert import convert
from support import randomised, values, write_file


Arrays = Mapping[str, np.ndarray]
T = TypeVar("T")
REFERENCES = Path(__file__).parent / "references"
SECONDS = 5  # for one small file: a hundred times what the slowest needs
BYTES = 64 * 2**20  # of memory, for files of at most 100 kB
LINE = 20_000  # characters

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def few(default: int, slow: int) -> pytest.MarkDecorator:
    """The numbers of files in the default run and in the slow run."""
    return pytest.mark.parametrize("count", [default, pytest.param(slow, marks=pytest.mark.slow)])


def generated(count: int) -> Callable[[Any], Any]:
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=health)


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Fails the test after some seconds, by an exception that no reader catches."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"It takes more than {seconds} s."))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Outcomes(collections.Counter[str]):
    """Counts of files that were accepted, and of those refused for each reason."""

    def of(self, read: Callable[[Path], T], path: Path) -> T | None:
        """The result of `read`, or `None` after a `CheckpointError`, which must be one line and name the file."""
        try:
            with limit(SECONDS):
                found = read(path)
        except CheckpointError as error:
            assert str(error).isprintable() and len(str(error)) < LINE and path.parent.name in str(error)
            self["refused"] += 1
            self[re.sub(r"/\S+|[`'\"(\[{].*|[\d,]+", "", str(error))] += 1
            return None
        self["taken"] += 1
        return found

    def check(self, count: int, reasons: int) -> None:
        """Every file was counted, with at least `reasons` different outcomes."""
        assert self["taken"] + self["refused"] == count
        assert self["taken"] and self["refused"] and len(self) >= reasons, self


def read_all(heads: Mapping[str, LazyArray], size: int) -> Arrays:
    """The arrays of an accepted file. Each must be as its header says."""
    arrays = values(heads)
    for name, head in heads.items():
        array = arrays[name]
        assert (array.shape, array.dtype, array.nbytes) == (head.shape, head.dtype, head.nbytes)
    assert sum(array.nbytes for array in arrays.values()) <= size
    return arrays


def assert_same(one: Arrays, other: Arrays) -> None:
    """Compares bytes, since NaN does not equal itself."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.shape, array.dtype) == (other[name].shape, other[name].dtype)
        assert array.tobytes() == other[name].tobytes()


# Changes ------------------------------------------------------------------------------------------------------------

TYPES = [bytes([kind]) for kind in (*range(0x7F, 0x84), 0x90, 0x93, 0xA0, 0xA1, 0xBF, *range(0xC0, 0xE1), 0xFF)]
LENGTHS = [
    (2**bits + off).to_bytes(8, order) for bits in (8, 31, 32, 63) for off in (-1, 0) for order in ("big", "little")
]
RUNS = [bytes([byte]) * size for byte in (0x00, 0x81, 0x90, 0xFF) for size in (4, 40, 5000)]
PIECES = [*TYPES, *LENGTHS, *RUNS, b"\xef\xbb\xbf", b"\xc7\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
WORDS = [
    *(b'null,true,-1,-0,NaN,-Infinity,1e400,0.5,18446744073709551615,18446744073709551616,"",[],{},[[[,{"a":').split(
        b","
    ),
    *(b'"\\ud800"', b'"\\u0000"', b'"a":0,"a":0,', b'"__metadata__":null,', b"9" * 5000, b"[" * 5000, b'{"a":' * 1000),
    *(b",", b":", b"\\", b'"', b"}", b"]", b"\xff", b"\xed\xa0\x80", b"\x00"),
]


def changed_bytes(content: bytes, pieces: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """`content` with one to four random changes."""
    new = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, other = rng.integers(len(new) + 1, size=2).tolist()
        length = int(rng.integers(1, 33))
        piece = pieces[int(rng.integers(len(pieces)))]
        match rng.integers(13):
            case 0:
                del new[at:]
            case 1 | 2 | 3:
                new[at : at + 1] = bytes([rng.integers(256)])
            case 4 | 5:
                new[at : at + 1] = bytes(byte ^ 1 << rng.integers(8) for byte in new[at : at + 1])
            case 6:
                new[at:at] = rng.bytes(length)
            case 7:
                del new[at : at + length]
            case 8 | 9:
                new[at : at + len(piece)] = piece
            case 10 | 11:
                new[at:at] = piece
            case _:
                new[at:at] = new[other : other + length * length]
    return bytes(new)


def edited(value: Any, odd: Sequence[Any], rng: np.random.Generator) -> Any:
    """`value` with one random item replaced, removed, repeated under another name, or swapped."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return odd[int(rng.integers(len(odd)))]
    names = list(value) if isinstance(value, dict) else list(range(len(value)))
    name, other = (names[int(index)] for index in rng.integers(len(names), size=2))
    new = value.copy()
    match rng.integers(10):
        case 0:
            del new[name]
        case 1:
            new[name] = value[other]
        case 2 if isinstance(new, dict):
            strings = [item for item in odd if isinstance(item, str)]
            new[strings[rng.integers(len(strings))]] = value[name]
        case 3 if isinstance(new, list):
            new.insert(name, value[other])
        case _:
            new[name] = edited(value[name], odd, rng)
    return new


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD_JSON: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 0.0, 0.5, -0.5, 1e308, math.nan, math.inf, 2**31, 2**63, 2**64, 10**400),
    *(
        10**4299,
        -(10**4299),
        "",
        "a",
        "0",
        "1",
        "\ud800",
        "\0",
        "a\nb",
        "x" * 300,
        "F32",
        "F8_E4M3",
        "pt",
        "flax",
        "np",
    ),
    *(
        "__metadata__",
        "../a",
        "a/b",
        "never",
        "weight_map",
        [],
        {},
        [0],
        [1, 1],
        [[1]],
        [None],
        {"0": 0},
        {"F32": None},
    ),
    *(["F32", [2], [0, 8]], {"a": {"b": {}}}, [0, 2**64 - 1], [1] * 9, nested(30), nested(900), {"a": nested(500)}),
]


def ext(shape: Any, dtype: Any, content: Any, code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, packed([shape, dtype, content]))


def packed(value: Any) -> bytes:
    content = msgpack.packb(value, unicode_errors="surrogatepass")
    assert isinstance(content, bytes)
    return content


CHUNKED = "__msgpack_chunked_array__"
ODD_MSGPACK: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**63, 2**64 - 1, 1.5, math.nan, "", "a", "0", "a.b", "\ud800", "\0", "x" * 600),
    *(b"", b"abc", [], {}, [1], {"0": 2}, {"a": {"b": {}}}, nested(15), nested(500), CHUNKED, "shape", "chunks"),
    *(msgpack.ExtType(code, b"") for code in (0, 1, 2, 3, 4, 127)),
    *(msgpack.Timestamp(1, 2), msgpack.ExtType(1, b"\x93\x90\xa1"), msgpack.ExtType(3, b"\xdd\xff\xff\xff\xff")),
    *(ext([2], dtype, b"1234") for dtype in ("uint16", "float16", "object", ">u2", "V2", "S2", "complex64", None, 3)),
    *(ext(shape, "uint8", b"1") for shape in ([], [1], [1] * 8, [1] * 9, [-1], [True], [1.0], 1, "1", {}, [2**64 - 1])),
    *(ext(shape, "uint8", b"") for shape in ([0], [0, 2**40], [0, 2**62, 2**62], [0, 2**64 - 1], [2**32] * 2, [0, -1])),
    *(ext([1], "uint8", content) for content in ("1", None, [1], b"12", b"1" * 300)),
    *({CHUNKED: flag, "shape": shape, "chunks": chunks}
      for flag in (True, 1) for shape in ({"0": 1}, {}, {"0": -1}, {"1": 1}, [1], {"0": 0, "1": 2**64 - 1})
      for chunks in ({"0": ext([1], "uint8", b"1")}, {"0": ext([0], "int8", b"")}, {}, [], {"0": {}}, {"0": True})),
]  # fmt: skip

RNG = np.random.default_rng(0)
ARRAYS = {
    "b": RNG.standard_normal((2, 3)).astype(np.float32),
    "a.kernel": RNG.standard_normal((3, 2)).astype(ml_dtypes.bfloat16),
    "a.c.bias": np.arange(4, dtype=np.int8),
    "a.c.scalar": np.full((), 7, np.float64),
    "a.d": np.zeros((0, 2), np.float16),
}


def tree_of_arrays(arrays: Arrays) -> dict[str, Any]:
    """As Flax writes them, one of them in chunks."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = ext(list(array.shape), array.dtype.name, array.tobytes())
    chunks = {str(index): ext([2], "int16", bytes([index, 0, index, 1])) for index in range(3)}
    return tree | {"e": {CHUNKED: True, "shape": {"0": 2, "1": 3}, "chunks": chunks}}


TREES: list[dict[str, Any]] = [tree_of_arrays(ARRAYS), {"a": ext([1], "uint8", b"1")}]
ENDS = np.cumsum([array.nbytes for array in ARRAYS.values()]).tolist()
KEYS = {dtype_of(name): key for key, name in DTYPES.items()}
HEADER: dict[str, Any] = {"__metadata__": {"format": "np"}} | {
    name: {"dtype": KEYS[array.dtype], "shape": list(array.shape), "data_offsets": [end - array.nbytes, end]}
    for (name, array), end in zip(ARRAYS.items(), ENDS, strict=True)
}
NUMBERS = b"".join(array.tobytes() for array in ARRAYS.values())


def some_msgpack(rng: np.random.Generator) -> bytes:
    tree = TREES[rng.integers(len(TREES))]
    if rng.random() < 0.5:
        tree = edited(tree, ODD_MSGPACK, rng)
    return packed(tree) if rng.random() < 0.4 else changed_bytes(packed(tree), PIECES, rng)


def safetensors_of(header: bytes, content: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + content


def some_safetensors(rng: np.random.Generator) -> bytes:
    """After a change of the header, its length is mostly corrected, as otherwise nothing else would be read."""
    header = some_json(HEADER, rng)
    content = len(header).to_bytes(8, "little") + header + NUMBERS
    return content if rng.random() < 0.7 else changed_bytes(content, PIECES, rng)


def some_json(fields: Mapping[str, Any], rng: np.random.Generator) -> bytes:
    text = json.dumps(edited(fields, ODD_JSON, rng) if rng.random() < 0.7 else fields).encode()
    return text if rng.random() < 0.6 else changed_bytes(text, WORDS, rng)


# Other readers ------------------------------------------------------------------------------------------------------


def by_msgpack(content: bytes) -> Arrays:
    """The arrays of a file by the msgpack library, with Flax's extension types."""

    def array(code: int, data: bytes) -> np.ndarray:
        assert code in (1, 3)
        shape, dtype, numbers = msgpack.unpackb(data)
        return np.frombuffer(numbers, dtype_of(dtype)).reshape(shape)

    def joined(node: Mapping[str, Any]) -> np.ndarray:
        chunks = [node["chunks"][str(index)] for index in range(len(node["chunks"]))]
        return np.concatenate(chunks).reshape([node["shape"][str(axis)] for axis in range(len(node["shape"]))])

    def leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
        for name, node in tree.items():
            if isinstance(node, dict) and CHUNKED not in node:
                yield from leaves(node, f"{prefix}{name}.")
            else:
                yield prefix + name, joined(node) if isinstance(node, dict) else node

    return dict(leaves(msgpack.unpackb(content, ext_hook=array), ""))


def by_safetensors(content: bytes) -> Arrays | None:
    """The arrays of a file by the safetensors library; `None` if it refuses the file."""
    try:
        found = deserialize(content)
    except SafetensorError:
        return None
    # Files with a dtype that NumPy does not have are refused by ours.
    return {
        name: np.frombuffer(entry["data"], dtype_of(DTYPES[entry["dtype"]])).reshape(entry["shape"])
        for name, entry in found
        if entry["dtype"] in DTYPES
    }


# Tests --------------------------------------------------------------------------------------------------------------


def check_msgpack(path: Path, outcomes: Outcomes) -> None:
    heads = outcomes.of(read_msgpack, path)
    if heads is not None:
        assert_same(read_all(heads, path.stat().st_size), by_msgpack(path.read_bytes()))


def check_safetensors(path: Path, outcomes: Outcomes) -> None:
    heads = outcomes.of(read_safetensors, path)
    if heads is not None:
        wanted = by_safetensors(path.read_bytes())
        assert wanted is not None
        assert_same(read_all(heads, path.stat().st_size), wanted)


def check_json(path: Path, outcomes: Outcomes) -> None:
    fields = outcomes.of(read_json, path)
    if fields is not None:
        assert fields == json.loads(path.read_bytes().decode("utf-8-sig"))


def check_index(path: Path, outcomes: Outcomes) -> None:
    heads = outcomes.of(read_arrays, path)
    if heads is not None:
        read_all(heads, sum(file.stat().st_size for file in path.parent.iterdir()))


@pytest.mark.parametrize(
    ("name", "some", "check"),
    [
        pytest.param("flax_model.msgpack", some_msgpack, check_msgpack, id="msgpack"),
        pytest.param("model.safetensors", some_safetensors, check_safetensors, id="safetensors"),
    ],
)
@few(330, 7500)
def test_weights(count: int, name: str, some: Any, check: Any, tmp_path: Path) -> None:
    rng, outcomes, path = np.random.default_rng(count), Outcomes(), tmp_path / name
    for _ in range(count):
        path.write_bytes(some(rng))
        check(path, outcomes)
    outcomes.check(count, reasons=8)


@few(200, 2500)
def test_json(count: int, tmp_path: Path) -> None:
    rng, outcomes, path = np.random.default_rng(count), Outcomes(), tmp_path / "config.json"
    fields = json.loads((REFERENCES / "converted/config.json").read_bytes())
    for _ in range(count):
        path.write_bytes(some_json(fields, rng))
        check_json(path, outcomes)
    outcomes.check(count, reasons=4)


@few(200, 2500)
def test_index(count: int, tmp_path: Path) -> None:
    """An index and two shards of either format. One of the three is changed."""
    rng, outcomes = np.random.default_rng(count), Outcomes()
    for turn in range(count):
        suffix = ("safetensors", "msgpack")[turn % 2]
        first, second = (f"model-{part}.{suffix}" for part in (1, 2))
        shards = {first: {"a.b": ARRAYS["b"], "a.c": ARRAYS["a.d"]}, second: {"d": ARRAYS["b"]}}
        folder = tmp_path / suffix
        folder.mkdir(exist_ok=True)
        for name, arrays in shards.items():
            write_file(folder / name, arrays, "np")
        index = {"metadata": {"total_size": 60}, "weight_map": {"a.b": first, "a.c": first, "d": second}}
        path = folder / f"model.{suffix}.index.json"
        path.write_text(json.dumps(index))
        change = rng.integers(4)
        if change == 0:
            (folder / first).write_bytes(changed_bytes((folder / first).read_bytes(), PIECES, rng))
        elif change == 1:
            path.write_bytes(changed_bytes(path.read_bytes(), WORDS, rng))
        else:
            index["weight_map"] = edited(index["weight_map"], [*ODD_JSON, first, second, *NAMES_OF_FILES], rng)
            path.write_text(json.dumps(index))
        check_index(path, outcomes)
    outcomes.check(count, reasons=8)


NAMES_OF_FILES = [
    f"{name}{suffix}"
    for name in ("", "x", "../model-1", "x" * 300, "\0", "\ud800", "model-1")
    for suffix in (".safetensors", ".msgpack", ".bin", ".json")
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint that has every file that a conversion reads."""
    folder = tmp_path_factory.mktemp("checkpoint")
    sizes = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 2) | dict.fromkeys(
        ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1
    )
    config = BartConfig(vocab_size=5, max_position_embeddings=4, **sizes)
    (folder / "config.json").write_text(json.dumps({"architectures": ["BartForCausalLM"]} | config.to_dict()))
    write_file(folder / "model.safetensors", randomised(parameter_shapes(ARCHITECTURES["BartForCausalLM"], config)))
    (folder / "generation_config.json").write_text(
        json.dumps({"max_length": 9, "num_beams": 2, "bad_words_ids": [[3]], "forced_eos_token_id": 2})
    )
    tokens = {"added_tokens": [{"content": "<s>", "id": 0}], "model": {"vocab": {"a": 3, "b": 5}}}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    return folder


@few(30, 800)
def test_conversion(count: int, checkpoint: Path, tmp_path: Path) -> None:
    """A refused source leaves no files; a converted one can be read."""
    rng, outcomes = np.random.default_rng(count), Outcomes()
    shutil.copytree(checkpoint, tmp_path / "source")
    target = tmp_path / "target"
    for turn in range(count):
        path = (
            tmp_path
            / "source"
            / ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")[turn % 4]
        )
        sound = path.read_bytes()
        path.write_bytes(
            some_json(json.loads(sound), rng) if path.suffix == ".json" else changed_bytes(sound, PIECES, rng)
        )
        done = outcomes.of(lambda source: convert(source, target), tmp_path / "source")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source"] + ["target"] * (done is not None)
        if done is not None:
            assert len(read_safetensors(target / "model.safetensors")) == done.tensors
            shutil.rmtree(target)
        path.write_bytes(sound)
    outcomes.check(count, reasons=6)
