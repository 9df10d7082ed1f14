"""Bad inputs, numbered as in `docs/checkpoints.md`: the command refuses each in one line that says what is wrong,
leaves the source unchanged, and writes nothing. (Network faults are in `test_hub.py`, faults while writing in
`test_faults.py`.)
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bart_eqx
from bart_eqx.checkpoint import errors
from bart_eqx.checkpoint.errors import (
    ConfigurationError,
    DamagedFileError,
    NonFiniteError,
    UnsupportedCheckpointError,
)
from bart_eqx.checkpoint.finite import checked
from bart_eqx.checkpoint.formats.lazy_array import from_numpy
from bart_eqx.checkpoint.source import _parse_path
from bart_eqx.convert import convert, main
from bart_eqx.convert.conversion import default_target
from support import configured, random_model, write_file


REFERENCES = Path(__file__).parent / "references"
Change = Callable[[Path], Any]


def raw(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def generation(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def tensors(edit: Callable[[dict[str, np.ndarray]], Any], metadata: Mapping[str, str] | None = None) -> Change:
    """Edit the arrays of model.safetensors."""

    def change(folder: Path) -> None:
        arrays = load_file(folder / "model.safetensors")
        edit(arrays)
        save_file(arrays, folder / "model.safetensors", metadata=dict(metadata or {"format": "pt"}))

    return change


def header(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Edit the header of model.safetensors, and keep the rest of the file."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + length])
        text = edit(fields)
        new = (text if isinstance(text, str) else json.dumps(fields)).encode()
        path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])

    return change


def truncated(name: str, keep: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return change


def longer(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"PK\x03\x04")


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def index(weight_map: Any) -> Change:
    """An index and one shard instead of one file."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def msgpack_file(tree: Any) -> Change:
    """A flax_model.msgpack, which is read first."""
    return lambda folder: (folder / "flax_model.msgpack").write_bytes(msgpack.packb(tree) or b"")


def array(shape: Any, dtype: Any, content: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, content)) or b"")


def first_entry(fields: dict[str, Any]) -> dict[str, Any]:
    return fields["model.shared.weight"]


def doubled(fields: dict[str, Any]) -> str:
    text = json.dumps(fields)
    return text[:-1] + ', "model.shared.weight": ' + json.dumps(first_entry(fields)) + "}"


SHARED = "model.shared.weight"
BIAS = "model.decoder.layers.1.fc1.bias"
EVERY = dict.fromkeys(load_file(REFERENCES / "converted/model.safetensors"), "model-00001-of-00001.safetensors")
D, M, C, U, S, N = (
    errors.DamagedFileError,
    errors.MismatchError,
    errors.ConfigurationError,
    errors.UnsupportedCheckpointError,
    errors.SourceNotFoundError,
    errors.NonFiniteError,
)

# Number, change of a valid folder, type of the error, and its message.
CASES: list[tuple[str, Change, type[errors.CheckpointError], str]] = [
    (
        "11-tf",
        lambda f: (f / "model.safetensors").rename(f / "tf_model.h5"),
        U,
        r"its weights in tf_model.h5 .TensorFlow. only.*save",
    ),
    (
        "11-bin",
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        U,
        "pickle.*pip install.*refs/pr/N",
    ),
    ("12-mbart", config(model_type="mbart"), U, "model_type=\"bart\". Got 'mbart'"),
    ("12-other", config(architectures=["BertModel"]), U, r"names none of BartModel.*BertModel"),
    ("12-no-list", config(architectures=7), U, "names none of BartModel"),
    ("13-no-config", without("config.json"), S, "config.json is missing"),
    ("13-pointer", raw("config.json", b"version https://git-lfs.github.com/spec/v1\n"), D, "git lfs pull"),
    ("13-html", raw("config.json", b"<!DOCTYPE html><html>"), D, "is not valid JSON.*starts with b'<!DOCTYPE"),
    (
        "14-pointer",
        raw("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        D,
        "lfs pull",
    ),
    ("14-msgpack", raw("flax_model.msgpack", b"version https://git-lfs.github.com/spec/v1\n"), D, "git lfs pull"),
    ("17-parent", index({"a": "../x.safetensors"}), D, r"in its own folder. Got '../x.safetensors'"),
    ("17-absolute", index({"a": "/etc/x.safetensors"}), D, "in its own folder. Got '/etc"),
    ("17-windows", index({"a": "C:\\x.safetensors"}), D, "in its own folder"),
    ("17-kind", index({"a": "x.bin"}), D, "must name .safetensors files"),
    ("17-name", index({"a": "x\n.safetensors"}), D, r"Got 'x\\n.safetensors'"),
    ("18-list", index({"a": ["x"]}), D, "must hold a `weight_map`"),
    ("18-none", index(None), D, "must hold a `weight_map`"),
    ("18-empty", index({}), D, "must hold a `weight_map`"),
    (
        "19-missing",
        index({"a": "x.safetensors", "b": "y.safetensors"}),
        S,
        "do not exist: x.safetensors, y.safetensors",
    ),
    ("20-unlisted", index({SHARED: EVERY[SHARED]}), D, "disagree about 75 arrays"),
    ("20-absent", index(EVERY | {"a": EVERY[SHARED]}), D, r"disagree about 1 arrays: `a` is in model-"),
    ("21-nesting", raw("config.json", b"[" * 100_000), D, "is not valid JSON"),
    ("21-huge", raw("config.json", b" " * (11 * 2**20)), D, r"11,534,336 bytes.*must not exceed 1,048,576"),
    ("22-encoding", raw("config.json", b'{"a": "\xff"}'), D, "is not valid JSON.*utf-8"),
    ("23-nan", raw("config.json", b'{"dropout": NaN}'), D, "NaN is not a JSON number"),
    ("23-infinite", raw("config.json", b'{"dropout": 1e400}'), D, "1e400 is not finite"),
    ("23-twice", raw("config.json", b'{"d_model": 8, "d_model": 16}'), D, "'d_model' twice"),
    ("23-string", config(vocab_size="41"), C, "config.json: `vocab_size` must be int. Got '41'"),
    ("23-bool", config(d_model=True), C, "`d_model` must be int. Got True"),
    ("23-digits", raw("config.json", b'{"d_model": ' + b"9" * 5000 + b"}"), D, "is not valid JSON"),
    ("24-heads", config(encoder_attention_heads=3), C, "`d_model` must be divisible by `encoder_attention_heads`"),
    ("24-layers", config(encoder_layers=0), C, "`encoder_layers` must be at least 1. Got 0"),
    ("24-ffn", config(decoder_ffn_dim=-1), C, "`decoder_ffn_dim` must be at least 1"),
    ("24-vocab", config(vocab_size=0), C, "`vocab_size` must be at least 1"),
    ("24-activation", config(activation_function="maxout"), C, "`activation_function` must be one of gelu"),
    ("24-parametric", config(activation_function="prelu"), C, "must have no parameters of its own.*Got 'prelu'"),
    (
        "25-bomb",
        config(d_model=10**9, encoder_attention_heads=1, decoder_attention_heads=1),
        M,
        "in place of .41, 1000000000",
    ),
    ("25-layers", config(encoder_layers=10**9), M, "1000000000 encoder and 2 decoder layers.*76 arrays in all"),
    ("25-labels", config(num_labels=10**12, id2label=None), C, "`num_labels` must be at most"),
    ("26-pre-norm", config(normalize_before=True), C, "a variant of BART that is not implemented: `normalize_before`"),
    ("26-unknown", config(rotary_dim=4), C, "fields that are not known to BART: rotary_dim"),
    ("27-pointer", raw("generation_config.json", b"version https://git-lfs.github.com/spec/v1\n"), D, "git lfs pull"),
    ("27-list", raw("generation_config.json", b"[]"), D, "must hold a JSON object. Got list"),
    ("29-truncated", truncated("model.safetensors", 0.9), D, "cannot be read as safetensors.*download it again"),
    ("29-header", truncated("model.safetensors", 0.1), D, "its header should have"),
    ("29-empty", raw("model.safetensors", b""), D, "is empty"),
    ("30-trailing", longer("model.safetensors"), D, "cannot be read as safetensors"),
    ("30-overlap", header(lambda h: first_entry(h).update(data_offsets=[0, 1312])), D, "cannot be read as safetensors"),
    ("30-size", header(lambda h: first_entry(h).update(shape=[41, 9])), D, "cannot be read as safetensors"),
    ("30-negative", header(lambda h: first_entry(h).update(shape=[-41, -8])), D, "cannot be read as safetensors"),
    ("30-overflow", header(lambda h: first_entry(h).update(shape=[2**62, 8])), D, "cannot be read as safetensors"),
    (
        "31-header",
        raw("model.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
        D,
        "should have 1,099,511,627,776 bytes",
    ),
    ("32-twice", header(doubled), D, "'model.shared.weight' twice"),
    ("33-none", lambda f: save_file({}, f / "model.safetensors", metadata={"format": "pt"}), M, "has 0 arrays in all"),
    ("34-rank", header(lambda h: first_entry(h).update(shape=[1] * 70 + [41, 8])), D, "(72 axes|cannot be read)"),
    ("34-float8", header(lambda h: first_entry(h).update(dtype="F8_E4M3", shape=[41, 32])), U, "has dtype F8_E4M3"),
    (
        "35-integers",
        tensors(lambda t: t.update({BIAS: np.ones(7, np.int32)})),
        M,
        "not floating-point: `model.decoder.*int32",
    ),
    (
        "36-nan",
        tensors(lambda t: t[SHARED].__setitem__((3, 4), np.nan)),
        N,
        "1 of the 328 values of `model.shared.weight`",
    ),
    ("36-infinite", tensors(lambda t: t[BIAS].__setitem__(2, -np.inf)), N, f"1 of the 7 values of `{BIAS}`"),
    (
        "38-missing",
        tensors(lambda t: [t.pop(n) for n in list(t) if "fc1.bias" in n]),
        M,
        r"`model.decoder.layers.\{0...1\}.fc1.bias` .7,",
    ),
    (
        "39-unexpected",
        tensors(lambda t: t.update({"adapter.weight": np.ones(3, np.float32)})),
        M,
        "unexpected: `adapter.weight`",
    ),
    ("40-vocab", config(vocab_size=42), M, r"`model.shared.weight` \(41, 8\) in place of \(42, 8\)"),
    (
        "41-tied",
        tensors(lambda t: t.update({"lm_head.weight": t[SHARED] + 1})),
        M,
        "`lm_head.weight` and `shared.weight` must be equal",
    ),
    (
        "43-prefix",
        tensors(lambda t: t.update({f"bart.{n}": t.pop(n) for n in list(t)})),
        M,
        "all 76 names begin with `bart.`",
    ),
    (
        "43-both",
        tensors(lambda t: t.update({BIAS[6:]: t[BIAS] + 1})),
        M,
        "are the same parameter with different values",
    ),
    (
        "44-format",
        tensors(lambda t: None, {"format": "flax"}),
        D,
        "says format='flax': all its names must be Flax's",
    ),
    (
        "44-mixed",
        tensors(lambda t: t.update({"model.decoder.layers.0.fc1.kernel": np.ones((8, 7), np.float32)}), {"x": "y"}),
        D,
        "one framework's",
    ),
    ("44-unknown", tensors(lambda t: None, {"format": "tf"}), U, "says format='tf'"),
    ("45-positions", config(max_position_embeddings=14), M, r"embed_positions.weight` \(14, 8\) in place of \(16, 8\)"),
    (
        "46-truncated",
        raw("flax_model.msgpack", (REFERENCES / "flax-msgpack/flax_model.msgpack").read_bytes()[:-9]),
        D,
        "cut off",
    ),
    (
        "46-trailing",
        raw("flax_model.msgpack", (REFERENCES / "flax-msgpack/flax_model.msgpack").read_bytes() + b"\0"),
        D,
        "1 bytes after the",
    ),
    (
        "46-extension",
        msgpack_file({"a": msgpack.ExtType(9, b"")}),
        D,
        "`a` must be an extension of type 1 or 3.* Got type 9",
    ),
    ("46-object", msgpack_file({"a": array((1,), "object", b"12345678")}), D, "`a` has the unsupported dtype 'object'"),
    (
        "46-structured",
        msgpack_file({"a": array((1,), "f4,f4", b"12345678")}),
        D,
        "`a` has the unsupported dtype 'f4,f4'",
    ),
    ("46-negative", msgpack_file({"a": array((-1,), "float32", b"1234")}), D, r"`a` has the invalid shape \[-1\]"),
    (
        "46-overflow",
        msgpack_file({"a": array((0, 2**40), "float32", b"1234")}),
        D,
        "`a` has 4 bytes, which does not fit shape .0, 1099511627776.",
    ),
    ("46-key", msgpack_file({1: {}}), D, "must be a string. Got 1"),
    ("46-twice", raw("flax_model.msgpack", b"\x82\xa1a\x80\xa1a\x80"), D, "`a` occurs twice"),
    ("46-depth", raw("flax_model.msgpack", b"\x81\xa1a" * 5000 + b"\x80"), D, "nested deeper than 16 maps"),
    (
        "47-chunks",
        msgpack_file({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {}}}),
        D,
        "chunks of `a`",
    ),
    ("50-big-endian", msgpack_file({"a": array((1,), ">f4", b"1234")}), D, "`a` has the unsupported dtype '>f4'"),
    ("63-raw-names", tensors(lambda t: t.update({"x\x1b[2J\ny": np.ones(2, np.float32)})), M, r"x\\x1b\[2J\\ny"),
]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("change", "error", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused(change: Change, error: type, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(REFERENCES / "converted", source)
    change(source)
    before = content(source)
    with pytest.raises(error) as caught:
        convert(source, target)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert type(caught.value) is error and "\n" not in str(caught.value) and str(source) in str(caught.value)
    assert main([str(source), "-o", str(target)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"error: {' '.join(str(caught.value).split())}\n"
    assert content(source) == before and [path.name for path in tmp_path.iterdir()] == ["source"]
    with pytest.raises(error):
        bart_eqx.from_pretrained(source)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("3: C:\\models\\bart", S, "There is no folder"),
        ("./nowhere", S, "There is no folder 'nowhere'"),
        ("~/nowhere/at/all", S, "There is no folder .*nowhere/at/all"),
        ("https://example.com/bart", S, "There is no folder"),
        ("x" * 5000, S, "is not a valid path|neither a folder nor the id"),
        ("a\0b", S, "neither a folder nor the id"),
    ],
)
def test_sources_that_are_none(source: str, error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        convert(source.removeprefix("3: "), tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


class TestSources:
    """Unusual inputs that are accepted."""

    @pytest.fixture
    def sound(self, tmp_path: Path) -> Path:
        shutil.copytree(REFERENCES / "converted", tmp_path / "sound")
        return tmp_path / "sound"

    @pytest.mark.parametrize("spelling", ["{}/", "{}/model.safetensors", "{}/../sound"])
    def test_3_spellings(self, sound: Path, tmp_path: Path, spelling: str) -> None:
        done = convert(spelling.format(sound), tmp_path / "target")
        assert done.written["model.safetensors"]["size"] == (sound / "model.safetensors").stat().st_size

    def test_2_a_folder_comes_before_a_name(self, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sound.rename(tmp_path / "bart-base")
        monkeypatch.chdir(tmp_path)
        done = convert("bart-base", "target")
        assert (done.source, done.repository, done.commit) == ("bart-base", None, None)

    @pytest.mark.parametrize(
        ("address", "found"),
        [
            ("facebook/bart-base", ("facebook/bart-base", None, None)),
            ("facebook/bart-base/#files", ("facebook/bart-base", None, None)),
            ("facebook/bart-base/tree/main", ("facebook/bart-base", "main", None)),
            ("facebook/bart-base/tree/refs%2Fpr%2F3/a/b?x=y", ("facebook/bart-base", "refs/pr/3", "a/b")),
            ("facebook/bart-base/blob/main/config.json", ("facebook/bart-base", "main", None)),
            ("facebook/bart-base/resolve/v1/a/config.json", ("facebook/bart-base", "v1", "a")),
        ],
    )
    def test_3_addresses(self, address: str, found: Any) -> None:
        assert _parse_path(address) == found

    def test_names_of_targets(self, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(sound)
        for source in (".", "model.safetensors", str(sound), "../sound/"):
            assert default_target(source) == Path("sound-eqx")
        for source in ("bart-base", "facebook/bart-base", "https://huggingface.co/facebook/bart-base/tree/main"):
            assert default_target(source) == Path("bart-base-eqx")

    def test_6_a_base_model_that_says_how_it_writes(self, sound: Path, tmp_path: Path) -> None:
        """As facebook/bart-base, whose config.json has generation settings."""
        (sound / "generation_config.json").unlink()
        fields = json.loads((sound / "config.json").read_bytes())
        says = dict(num_beams=4, no_repeat_ngram_size=3, early_stopping=True)
        (sound / "config.json").write_text(json.dumps(fields | says | {"architectures": ["BartModel"]}))
        convert(sound, tmp_path / "target")
        written = json.loads((tmp_path / "target/generation_config.json").read_bytes())
        assert {name: written[name] for name in says} == says
        (sound / "config.json").write_text(json.dumps(fields | {"num_beams": -1, "architectures": ["BartModel"]}))
        done = convert(sound, tmp_path / "other")
        assert json.loads((tmp_path / "other/generation_config.json").read_bytes())["num_beams"] == -1
        assert "settings of generation are kept, and `generate` refuses them: `num_beams` must" in done.warnings[0]

    def test_7_fields_of_no_account(self, sound: Path, tmp_path: Path) -> None:
        of_kobart = dict(author="x", kobart_version=2.0, do_blenderbot_90_layernorm=False, xla_device=True)
        config(**of_kobart)(sound)
        convert(sound, tmp_path / "target")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (dict(min_length=9, max_length=4), "`min_length` must not be more than `max_length`"),
            (dict(num_beams=0), "`num_beams` must be at least 1"),
            (dict(num_beams=2, early_stopping="sometimes"), "`early_stopping` must be"),
            (dict(num_return_sequences=9), "`num_return_sequences` must not be more"),
            (dict(no_repeat_ngram_size=-1), "`no_repeat_ngram_size` must be at least 0"),
            (dict(num_beams="4"), "`num_beams` must be int"),
        ],
    )
    def test_27_settings_of_generation(self, sound: Path, tmp_path: Path, fields: dict, message: str) -> None:
        """They are kept, and refused by `generate`."""
        generation(**fields)(sound)
        done = convert(sound, tmp_path / "target")
        assert message in done.warnings[0]
        assert json.loads((tmp_path / "target/generation_config.json").read_text()).items() >= fields.items()
        model = bart_eqx.from_pretrained(tmp_path / "target", bart_eqx.BartForConditionalGeneration)
        with pytest.raises(ValueError, match=message):
            bart_eqx.generate(model, np.array([5, 6, 2]))

    def test_9_tokenizers(self, sound: Path, tmp_path: Path) -> None:
        (sound / "vocab.txt").write_text("of another kind")
        convert(sound, tmp_path / "target")
        assert (tmp_path / "target/vocab.txt").read_text() == "of another kind"
        (sound / "vocab.txt").unlink()
        os.mkfifo(sound / "vocab.txt")
        with pytest.raises(DamagedFileError, match=r"vocab.txt must be a regular file. Got a folder or a device"):
            convert(sound, tmp_path / "other")

    def test_15_warnings_have_an_order(self, sound: Path, tmp_path: Path) -> None:
        arrays = load_file(sound / "model.safetensors")
        flat = {name: np.full_like(array, 0.5) if array.ndim == 2 else array for name, array in arrays.items()}
        write_file(sound / "model.safetensors", flat, "pt")
        several = {convert(sound, tmp_path / str(turn)).warnings for turn in range(4)}
        assert len(several) == 1 and len(set(*several)) == len(*several) > 10

    def test_options_beside_verify(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--verify", "demo", "--overwrite", "--to", "flax"])
        assert "--verify takes no options but --json and --ignore. Got overwrite, to" in capsys.readouterr().err

    def test_a_configuration_is_no_weights(self, sound: Path, tmp_path: Path) -> None:
        with pytest.raises(
            UnsupportedCheckpointError, match="neither a file of weights nor the index of one: give its folder"
        ):
            convert(sound / "config.json", tmp_path / "target")

    @pytest.mark.parametrize("dtype", ["float64", "int8", "foo"])
    def test_other_dtypes(self, sound: Path, tmp_path: Path, dtype: Any) -> None:
        with pytest.raises(TypeError, match="dtype"):
            convert(sound, tmp_path / "target", dtype=dtype)

    def test_endless_numbers(self, sound: Path, tmp_path: Path) -> None:
        fields = json.loads((sound / "config.json").read_bytes())
        (sound / "config.json").write_text(json.dumps(fields | {"init_std": 10**400}))
        with pytest.raises(ConfigurationError):
            convert(sound, tmp_path / "target")

    def test_subfolder(self, sound: Path, tmp_path: Path) -> None:
        done = convert(tmp_path, tmp_path / "target", subfolder="sound")
        assert done.subfolder == "sound"
        for wrong in ("../sound", "/etc", "nowhere"):
            with pytest.raises(S):
                convert(tmp_path, tmp_path / "other", subfolder=wrong)

    def test_15_links_are_followed(self, sound: Path, tmp_path: Path) -> None:
        """The Hub's cache is made of them."""
        (tmp_path / "blobs").mkdir()
        for path in list(sound.iterdir()):
            path.rename(tmp_path / "blobs" / path.name)
            path.symlink_to(f"../blobs/{path.name}")
        convert(sound, tmp_path / "target")

    def test_16_of_two_formats_the_first_or_the_preferred(self, sound: Path, tmp_path: Path) -> None:
        params = {name: np.zeros_like(a) for name, a in load_file(sound / "model.safetensors").items()}
        write_file(sound / "model.safetensors", params)
        shutil.copy(REFERENCES / "flax-msgpack/flax_model.msgpack", sound)
        assert list(convert(sound, tmp_path / "one").read) == ["flax_model.msgpack"]
        done = convert(sound, tmp_path / "two", prefer="safetensors")
        assert list(done.read) == ["model.safetensors"]
        with pytest.raises(S, match="no weights of the format 'pytorch'. It has flax_model.msgpack, model.safetensors"):
            convert(sound, tmp_path / "three", prefer="pytorch")

    def test_22_a_byte_order_mark(self, sound: Path, tmp_path: Path) -> None:
        raw("config.json", b"\xef\xbb\xbf" + (sound / "config.json").read_bytes())(sound)
        convert(sound, tmp_path / "target")

    def test_28_settings_of_generation_are_those_of_their_own_file(self, sound: Path, tmp_path: Path) -> None:
        config(num_beams=7, max_length=33)(sound)
        convert(sound, tmp_path / "target")
        model: Any = bart_eqx.from_pretrained(tmp_path / "target")
        settings = model.generation_config
        assert (settings.num_beams, settings.max_length) == (1, 20)

    def test_36_a_cast_beside_nan(self) -> None:
        """`allow_nonfinite` accepts values that were not finite before the cast."""
        array = from_numpy(np.array([[np.nan, 1e30]], np.float32))
        with pytest.raises(NonFiniteError, match=r"holds 1e\+30, which overflows in float16"):
            checked("x", array, np.dtype(np.float16), allow_nonfinite=True).read()
        assert np.isnan(checked("x", array, np.dtype(np.float32), allow_nonfinite=True).read()[0, 0])

    def test_36_unless_wanted(self, sound: Path, tmp_path: Path) -> None:
        tensors(lambda t: t[SHARED].__setitem__((3, 4), np.nan))(sound)
        assert main([str(sound), "-o", str(tmp_path / "target"), "--allow-nonfinite"]) == 0
        model: Any = bart_eqx.from_pretrained(tmp_path / "target", allow_nonfinite=True)
        assert jnp.isnan(model.model.shared.weight).sum() == 1

    def test_37_a_matrix_of_equal_numbers(self, sound: Path, tmp_path: Path) -> None:
        name = "model.encoder.layers.0.fc1.weight"
        tensors(lambda t: t[name].__setitem__(..., 0))(sound)
        assert f"all 40 values of `{name}` are 0" in convert(sound, tmp_path / "target").warnings[0]

    def test_35_casts(self, sound: Path, tmp_path: Path) -> None:
        """Rounded to nearest, and never to infinity."""
        wide = load_file(sound / "model.safetensors")
        for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
            write_file(sound / "model.safetensors", {name: a.astype(dtype) for name, a in wide.items()})
            done = convert(sound, tmp_path / f"{np.dtype(dtype)}-kept")
            assert done.dtype == np.dtype(dtype).name
            done = convert(sound, tmp_path / f"{np.dtype(dtype)}-cast", dtype="float32")
            cast = load_file(tmp_path / f"{np.dtype(dtype)}-cast/model.safetensors")
            for name, a in wide.items():
                np.testing.assert_array_equal(cast[name], a.astype(dtype).astype(np.float32))
        write_file(sound / "model.safetensors", wide | {BIAS: np.full(7, -70000, np.float32)})
        with pytest.raises(N, match=f"`{BIAS}` holds 70000, which overflows in float16"):
            convert(sound, tmp_path / "overflow", dtype="float16")

    def test_39_what_is_known_to_be_harmless(self, sound: Path, tmp_path: Path) -> None:
        extra = {
            "model.encoder.version": np.ones(1, np.float32),
            "classification_head.dense.bias": np.ones(8, np.float32),
        }
        tensors(lambda t: t.update(extra))(sound)
        assert convert(sound, tmp_path / "target").unexpected == ("classification_head.dense.bias",)
        tensors(lambda t: t.pop("final_logits_bias"))(sound)
        done = convert(sound, tmp_path / "other")
        assert done.missing == ("final_logits_bias",)
        assert not load_file(tmp_path / "other/model.safetensors")["final_logits_bias"].any()

    def test_40_a_tokenizer_with_more_tokens_than_the_embedding(self, sound: Path, tmp_path: Path) -> None:
        """As in facebook/bart-large-cnn, whose `<mask>` has no row."""
        vocabulary = {f"t{index}": index for index in range(41)}
        fields = {"model": {"vocab": vocabulary}, "added_tokens": [{"content": "<mask>", "id": 41}]}
        (sound / "tokenizer.json").write_text(json.dumps(fields))
        done = convert(sound, tmp_path / "target")
        assert "'<mask>'" in done.warnings[0] and (tmp_path / "target/tokenizer.json").exists()
        (sound / "tokenizer.json").write_text('{"model": 7}')
        with pytest.raises(D, match="does not have the expected structure"):
            convert(sound, tmp_path / "other")

    def test_what_else_config_json_says_is_kept(self, sound: Path, tmp_path: Path) -> None:
        config(task_specific_params={"summarization": {"max_length": 128}}, prefix=" ")(sound)
        convert(sound, tmp_path / "target")
        fields = json.loads((tmp_path / "target/config.json").read_text())
        assert fields["prefix"] == " " and fields["task_specific_params"]["summarization"] == {"max_length": 128}

    def test_a_head_that_is_missing(self, tmp_path: Path) -> None:
        bart_eqx.save_pretrained(random_model(bart_eqx.BartModel, configured("unequal")), tmp_path / "base")
        config(architectures=["BartForQuestionAnswering"])(tmp_path / "base")
        with pytest.raises(M, match="lacks the head of a BartForQuestionAnswering .*`architectures`"):
            convert(tmp_path / "base", tmp_path / "target")

    def test_51_arrays_are_the_model_s_own(self, sound: Path) -> None:
        """Changing the file after loading, or the caller's arrays, does not change the model."""
        model: Any = bart_eqx.from_pretrained(sound)
        before = np.array(model.model.shared.weight)
        (sound / "model.safetensors").write_bytes(b"\0" * (sound / "model.safetensors").stat().st_size)
        np.testing.assert_array_equal(model.model.shared.weight, before)
        params = bart_eqx.to_flax(model)
        mine = np.array(params["model"]["shared"]["embedding"])
        again = bart_eqx.from_flax(
            params | {"model": params["model"] | {"shared": {"embedding": mine}}}, model.config, type(model)
        )
        mine[:] = 7
        np.testing.assert_array_equal(again.model.shared.weight, before)

    def test_files_that_are_none(self, sound: Path, tmp_path: Path) -> None:
        (sound / "config.json").unlink()
        (sound / "config.json").mkdir()
        with pytest.raises(D, match="config.json must be a regular file"):
            convert(sound, tmp_path / "target")
        (sound / "config.json").rmdir()
        os.mkfifo(sound / "config.json")  # opening one would block
        with pytest.raises(D, match="config.json must be a regular file"):
            convert(sound, tmp_path / "target")
