"""The real Hub client against a small local Hub (`hub_server.py`): which files are requested, what is converted, and
errors in one line with nothing written.

The client reads its settings when it is imported, so each conversion runs in a process of its own.
"""

import dataclasses
import errno
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from bart_eqx.checkpoint.formats.msgpack import read_msgpack
from bart_eqx.checkpoint.hub import _record_revision
from bart_eqx.convert import convert
from hub_server import (
    Act,
    Hub,
    broken_off,
    commit_of,
    disabled,
    longer,
    moving,
    page,
    refusing,
    said,
    silence,
)
from support import values, write_file


REFERENCES = Path(__file__).parent / "references"
BART_TOKENIZER = Path(__file__).parent / "data" / "bart-tokenizer"
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "convert.py"
BASE = "facebook/bart-base"
TOKENIZER = {
    "merges.txt": "#version: 0.2\n",
    "tokenizer.json": json.dumps({"added_tokens": [], "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1}}}),
    "tokenizer_config.json": json.dumps({"model_max_length": 12}),
    "vocab.json": json.dumps({"<s>": 0, "a": 1}),
}
NEEDED = sorted(["config.json", "flax_model.msgpack", *TOKENIZER])
OTHERS = (".gitattributes", "README.md", "pytorch_model.bin", "rust_model.ot", "tf_model.h5")
ANY, API, FILES = r".*", r"GET /api/models/.*", r"\w+ /[^/]+/[^/]+/resolve/.*"
WEIGHTS = r"GET .*/flax_model\.msgpack"
WITHOUT_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch reads it")


@dataclasses.dataclass
class Machine:
    """A user's machine: a cache, a folder to write, and the address of the Hub."""

    folder: Path
    endpoint: str
    patience: float = 30
    """Seconds until a process must have ended."""

    @property
    def target(self) -> Path:
        return self.folder / "out"

    @property
    def cache(self) -> Path:
        return self.folder / "home" / "hub"

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        """The environment of these tests, without variables that change the client's behaviour."""
        elsewhere = ("hf_", "huggingface_", "transformers_offline")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().startswith(elsewhere) and not name.lower().endswith("_proxy")
        }
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        quick = {"HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2", "JAX_PLATFORMS": "cpu"}
        return inherited | own | quick | settings

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=self.patience,
            cwd=self.folder,
            env=self.environment(settings),
        )

    def convert(self, source: str, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "bart_eqx.convert", source, "-o", str(self.target), *options, **settings)

    def converted(self, source: str, *options: str, says: str = "", **settings: str) -> dict[str, Any]:
        """Convert, read the target, and remove it.

        Args:
            source: As the command takes it.
            options: Of the command.
            says: A part of stderr, which must be empty by default.
            settings: Environment variables.

        Returns:
            conversion.json, with the contents of the other files under `files`.
        """
        done = self.convert(source, *options, **settings)
        assert done.returncode == 0, done.stderr
        assert says in done.stderr if says else done.stderr == ""
        assert "Traceback" not in done.stderr
        record = json.loads((self.target / "conversion.json").read_text())
        record["files"] = contents(self.target)
        shutil.rmtree(self.target)
        return record

    def refused(self, source: str, *options: str, noisy: bool = False, **settings: str) -> str:
        """The error line. With `noisy`, the client may print its attempts before it."""
        done = self.convert(source, *options, **settings)
        lines = done.stderr.splitlines()
        assert done.returncode == 2, done.stderr
        assert lines[-1].startswith("error: ") and "Traceback" not in done.stderr, done.stderr
        said = [line for line in lines if line.startswith("error: ")] if noisy else lines
        assert len(said) == 1, done.stderr
        assert done.stdout == ""
        assert {path.name for path in self.folder.iterdir()} <= {"home"}
        return lines[-1]


def contents(folder: Path) -> dict[str, bytes]:
    """The files that depend only on the source's contents: not the record and the model card, which name the source."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("README.md", "conversion.json")
    }


def expected(source: Path, scratch: Path) -> dict[str, bytes]:
    """The result of converting the same files from a folder."""
    convert(source, scratch / "expected", overwrite=True)
    return contents(scratch / "expected")


def assert_no_names_in(message: str) -> None:
    """The name was right: no other may be suggested."""
    assert "Did you mean" not in message and "Short names" not in message


def repository(folder: Path, *references: str, without: tuple[str, ...] = ()) -> Path:
    """A repository's folder: the files of some references, a tokenizer, and files that must not be requested."""
    folder.mkdir(parents=True)
    for reference in references:
        shutil.copytree(REFERENCES / reference, folder, dirs_exist_ok=True)
    for name, text in TOKENIZER.items():
        (folder / name).write_text(text)
    for name in OTHERS:
        (folder / name).write_bytes(b"not to be asked for")
    for name in without:
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As facebook/bart-base is laid out: weights of four kinds, and no generation_config.json."""
    return repository(
        tmp_path_factory.mktemp("base") / "repository",
        "flax-safetensors",
        "flax-msgpack",
        without=("generation_config.json",),
    )


@pytest.fixture(scope="module")
def other(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another commit of it: each needed file has other contents, and config.json the same size."""
    folder = tmp_path_factory.mktemp("other") / "repository"
    shutil.copytree(base, folder)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text((base / "config.json").read_text().replace('"dropout": 0.1', '"dropout": 0.7'))
    assert config["dropout"] == 0.1
    arrays = values(read_msgpack(base / "flax_model.msgpack"))
    write_file(folder / "flax_model.msgpack", {name: array + 1 for name, array in arrays.items()})
    for name, text in TOKENIZER.items():
        (folder / name).write_text(text + "\n")
    return folder


@pytest.fixture
def hub(base: Path) -> Iterator[Hub]:
    with Hub({BASE: {"main": base}}) as hub:
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    folder = tmp_path / "machine"
    folder.mkdir()
    return Machine(folder, hub.url)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address on which nothing listens, reserved for the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_a_short_name(hub: Hub, machine: Machine, base: Path, tmp_path: Path) -> None:
    """One of four formats is downloaded, each file once, and recorded."""
    record = machine.converted("bart-base")
    assert hub.downloads() == NEEDED
    assert hub.requests.count(f"GET /api/models/{BASE}") == 1
    assert (record["source"], record["repository"], record["revision"]) == (BASE, BASE, None)
    assert record["commit"] == commit_of(base)
    assert list(record["read"]) == ["flax_model.msgpack"]
    assert record["files"] == expected(base, tmp_path)
    assert {name: record["files"][name].decode() for name in TOKENIZER} == TOKENIZER


def test_a_tokenizer_without_weights(machine: Machine, tmp_path: Path) -> None:
    """By a short name; again, from the cache; of a subfolder; of a revision that does not exist."""
    for folder in (tmp_path / "repository", tmp_path / "repository/nested"):
        shutil.copytree(BART_TOKENIZER, folder, dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"vocab_size": len(folder.parts)}))
    code = "from bart_eqx.text import Tokenizer; print(Tokenizer.from_pretrained('bart-base'{}).model_vocab_size)"
    with Hub({BASE: {"main": tmp_path / "repository"}}) as hub:
        machine.endpoint = hub.url
        files = ["config.json", "merges.txt", "vocab.json"]
        depth = len(tmp_path.parts)
        nested = ["nested/config.json"], ", subfolder='nested'", depth + 2  # the cache has the others, by their hashes
        for downloaded, arguments, size in ((files, "", depth + 1), ([], "", depth + 1), nested):
            hub.requests.clear()
            done = machine.run("-c", code.format(arguments))
            assert done.stdout == f"{size}\n", done.stderr
            assert hub.downloads() == downloaded
        hub.requests.clear()
        done = machine.run("-c", code.format(""), HF_HUB_OFFLINE="1")
        assert done.stdout == f"{depth + 1}\n" and hub.requests == [], done.stderr
        done = machine.run("-c", code.format(", revision='none'"))
        assert "SourceNotFoundError" in done.stderr and "has no branch, tag or commit 'none'" in done.stderr


@pytest.mark.slow
def test_real_size(machine: Machine, tmp_path: Path) -> None:
    """558 MB in at most 1.3 times as much memory; an interrupted download continues where it stopped."""
    spec = importlib.util.spec_from_file_location("benchmark_of_convert", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    folder = repository(tmp_path / "repository")
    weights = benchmark.make_checkpoint(folder, benchmark.CONFIGS["base"])
    # A process's peak counts what it was forked from, so it is forked from a small one.
    measured = (
        "import os, subprocess, sys; process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr);"
        "_, status, usage = os.wait4(process.pid, 0); print(usage.ru_maxrss); sys.exit(status != 0)"
    )
    command = (sys.executable, "-m", "bart_eqx.convert", "bart-base", "-o", str(machine.target))
    with Hub({BASE: {"main": folder}}) as hub:
        machine.endpoint, machine.patience = hub.url, 300
        hub.fault(WEIGHTS, broken_off(300 * 10**6), times=1)
        done = machine.run("-c", measured, *command)
        if "Run it again" in done.stderr:  # by a client that does not take it up again by itself
            done = machine.run("-c", measured, *command)
        assert done.returncode == 0, done.stderr
        assert hub.downloads() == sorted([*NEEDED, "flax_model.msgpack"])
        assert len(hub.ranges) == 1
    assert int(done.stdout) * 1024 <= 1.3 * weights.stat().st_size
    record = json.loads((machine.target / "conversion.json").read_text())
    assert record["commit"] == commit_of(folder)
    assert record["read"] == {"flax_model.msgpack": weights.stat().st_size}


def test_a_cache_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that cannot be recorded is resolved again."""
    snapshot = tmp_path / "models--a--b/snapshots" / ("c" * 40)
    ref = tmp_path / "models--a--b/refs/main"
    snapshot.mkdir(parents=True)
    _record_revision(snapshot, "main")
    assert ref.read_text() == "c" * 40
    replaced: list[Any] = []

    def refuse(*paths: Any) -> None:
        replaced.append(paths)
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    _record_revision(snapshot, "main")  # which it knows
    assert not replaced
    _record_revision(snapshot.with_name("d" * 40), "main")
    assert replaced and ref.read_text() == "c" * 40


class TestWithoutTheHub:
    def test_all_of_it_in_the_cache(self, hub: Hub, machine: Machine, nobody: str) -> None:
        """Without a warning if offline mode was requested; with one if the Hub is unreachable, as files may be old."""
        record = machine.converted("bart-base")
        hub.requests.clear()
        assert machine.converted("bart-base", HF_HUB_OFFLINE="1") == record
        assert hub.requests == []
        assert machine.converted("bart-base", HF_ENDPOINT=nobody, says="as it is in the cache") == record
        hub.fault(ANY, page())
        assert machine.converted("bart-base", says="as it is in the cache") == record

    @pytest.mark.parametrize("how", ["offline", "nobody", "silence", "page", "another service"])
    def test_nothing_in_the_cache(self, how: str, hub: Hub, machine: Machine, nobody: str) -> None:
        """The error names the settings that are most often the reason, and the client does not wait forever."""
        hub.fault(ANY, {"page": page(), "another service": said(b'{"status": "ok"}')}.get(how, silence()))
        machine.endpoint = nobody if how == "nobody" else hub.url
        message = machine.refused("bart-base", HF_HUB_OFFLINE=str(int(how == "offline")))
        for part in (BASE, str(machine.cache), machine.endpoint, "HF_HUB_OFFLINE", "HF_ENDPOINT"):
            assert part in message

    @pytest.mark.parametrize(
        ("source", "ending"),
        [
            ("bart-bse", "There is no folder 'bart-bse' either. Did you mean bart-base?"),
            ("BART_Large", "Did you mean bart-large or "),
            ("demoo", "Did you mean demo?"),
            ("nothere", "There is no folder 'nothere' either. Short names are: bart-base, "),
            ("facebok/bart-base", "Did you mean facebook/bart-base?"),
            ("some/body", "HF_HOME.\n"),
            ("bart-base", "HF_HOME.\n"),
        ],
    )
    @pytest.mark.parametrize("offline", [False, True])
    def test_a_misspelt_name(self, source: str, ending: str, offline: bool, machine: Machine, nobody: str) -> None:
        """The Hub cannot be asked, and a name with an owner may be right."""
        machine.endpoint = nobody
        assert ending in machine.refused(source, HF_HUB_OFFLINE=str(int(offline))) + "\n"

    def test_a_part_of_it_in_the_cache(self, hub: Hub, machine: Machine, base: Path, tmp_path: Path) -> None:
        """An interrupted download leaves only complete files, which the next one uses."""
        hub.fault(WEIGHTS, broken_off(6000))
        message = machine.refused("bart-base", noisy=True)
        for part in (BASE, "Run it again", "in the cache"):
            assert part in message
        message = machine.refused("bart-base", HF_HUB_OFFLINE="1")
        for part in (BASE, str(machine.cache), "HF_HUB_OFFLINE"):
            assert part in message
        assert_no_names_in(message)
        hub.heal()
        assert machine.converted("bart-base")["files"] == expected(base, tmp_path)
        assert hub.downloads() == ["flax_model.msgpack"]

    def test_a_shard_is_not_in_the_cache(self, machine: Machine, tmp_path: Path) -> None:
        folder = repository(tmp_path / "repository", "flax-msgpack-sharded")
        with Hub({"some/body": {"main": folder}}) as hub:
            machine.endpoint = hub.url
            machine.converted("some/body")
        (shard,) = machine.cache.glob("*/snapshots/*/flax_model-00002-of-00003.msgpack")
        shard.unlink()
        message = machine.refused("some/body", HF_HUB_OFFLINE="1")
        for part in ("some/body", str(machine.cache), "HF_HUB_OFFLINE"):
            assert part in message
        assert_no_names_in(message)


class TestRefusals:
    @pytest.mark.parametrize(
        ("source", "fault", "parts"),
        [
            pytest.param("bart-bse", None, ["no repository 'bart-bse'", "Did you mean bart-base?"], id="misspelt"),
            pytest.param("nobody/nothing", None, ["no repository 'nobody/nothing'", "hf auth login"], id="unknown"),
            pytest.param(
                "nobody/private",
                (ANY, refusing(401, "RepoNotFound", "Invalid username or password.")),
                ["no repository 'nobody/private'", "private", "hf auth login"],
                id="private",
            ),
            pytest.param(
                BASE,
                (FILES, refusing(403, "GatedRepo", "Access to this model is restricted.")),
                [f"'{BASE}' is gated", "request access", "hf auth login"],
                id="gated",
            ),
            pytest.param(BASE, (ANY, disabled()), [f"'{BASE}' is disabled"], id="disabled"),
            pytest.param(
                BASE,
                (r"HEAD .*/flax_model\.msgpack", refusing(404, "EntryNotFound", "Entry not found")),
                [f"'{BASE}' lists a file that is not on the Hub"],
                id="listed only",
            ),
            pytest.param(
                BASE,
                (r"HEAD .*/flax_model\.msgpack", longer(1000)),
                [f"The download of '{BASE}' failed", "12488", "13488", "Run it again"],
                id="wrong length",
            ),
        ],
    )
    def test_of_the_hub(
        self, source: str, fault: tuple[str, Act] | None, parts: list[str], hub: Hub, machine: Machine
    ) -> None:
        if fault is not None:
            hub.fault(*fault)
        message = machine.refused(source)
        for part in parts:
            assert part in message
        if source == BASE:
            assert_no_names_in(message)

    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            (["--revision", "nope"], [f"'{BASE}' has no branch, tag or commit 'nope'"]),
            (["--subfolder", "nope"], [f"'{BASE}' has no nope/config.json"]),
        ],
        ids=["revision", "subfolder"],
    )
    def test_what_the_repository_has_not(
        self, options: list[str], parts: list[str], hub: Hub, machine: Machine
    ) -> None:
        message = machine.refused("bart-base", *options)
        for part in parts:
            assert part in message
        assert_no_names_in(message)
        assert hub.downloads() == []

    def test_no_room(self, hub: Hub, machine: Machine) -> None:
        """Checked before the download."""
        hub.sizes["flax_model.msgpack"] = 10**15
        message = machine.refused("bart-base")
        for part in ("1,000,000,000,", "are free", str(machine.cache), "HF_HOME"):
            assert part in message
        assert hub.downloads() == ["config.json"]

    def test_a_cache_that_cannot_be_written(self, machine: Machine) -> None:
        message = machine.refused("bart-base", HF_HOME="/proc/x")
        assert "The cache, '/proc/x/hub', cannot be written" in message and "set HF_HOME" in message

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            pytest.param("pytorch_model.bin", ["pip install 'torch>=2.10'", "refs/pr/N"], marks=WITHOUT_TORCH),
            ("tf_model.h5", ["not read here", "safetensors", "refs/pr/N"]),
        ],
    )
    def test_formats_that_are_not_read(self, name: str, parts: list[str], tmp_path: Path, machine: Machine) -> None:
        """Refused before the download."""
        others = [other for other in OTHERS if other != name]
        folder = repository(tmp_path / "repository", "flax-msgpack", without=("flax_model.msgpack", *others))
        with Hub({"some/body": {"main": folder}}) as hub:
            machine.endpoint = hub.url
            message = machine.refused("some/body")
            assert hub.downloads() == []
        for part in (name, *parts):
            assert part in message

    @pytest.mark.parametrize(
        ("files", "parts"),
        [
            (["adapter_model.safetensors"], ["an adapter of 'facebook/bart-large'", "merge_and_unload"]),
            (["onnx/encoder_model.onnx"], ["onnx/encoder_model.onnx (ONNX)", "an export"]),
            (["checkpoint-9/model.safetensors"], ["in folders inside it, checkpoint-9", "--subfolder"]),
        ],
        ids=["adapter", "onnx", "subfolder"],
    )
    def test_repositories_without_a_configuration(
        self, files: list[str], parts: list[str], tmp_path: Path, machine: Machine
    ) -> None:
        """An adapter says which base it is of, and nothing else is downloaded."""
        adapter = "adapter_model.safetensors" in files
        for name in files:
            (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "repository" / name).write_bytes(b"not to be asked for")
        if adapter:
            fields = {"peft_type": "LORA", "base_model_name_or_path": "facebook/bart-large"}
            (tmp_path / "repository/adapter_config.json").write_text(json.dumps(fields))
        with Hub({"some/body": {"main": tmp_path / "repository"}}) as hub:
            machine.endpoint = hub.url
            message = machine.refused("some/body")
            assert hub.downloads() == (["adapter_config.json"] if adapter else [])
        for part in ("some/body", *parts):
            assert part in message


@pytest.mark.parametrize(
    ("address", "options"),
    [
        (f"https://huggingface.co/{BASE}", ["--revision", "{commit}"]),
        (f"https://huggingface.co/{BASE}/tree/refs%2Fpr%2F1", []),
        (f"hf://{BASE}", ["--revision", "v1.0"]),
        (f"{BASE}/", ["--revision", "refs/pr/1"]),
    ],
    ids=["address", "address of a branch", "hf", "trailing slash"],
)
def test_addresses_and_revisions(
    address: str, options: list[str], machine: Machine, base: Path, other: Path, tmp_path: Path
) -> None:
    """A commit, a tag, and a branch with slashes in its name, as the errors recommend."""
    options = [option.format(commit=commit_of(other)) for option in options]
    with Hub({BASE: {"main": base, "v1.0": other, "refs/pr/1": other}}) as hub:
        machine.endpoint = hub.url
        record = machine.converted(address, *options)
        assert hub.downloads() == NEEDED
    assert (record["repository"], record["commit"]) == (BASE, commit_of(other))
    assert record["revision"] == (options[-1] if options else "refs/pr/1")
    assert record["files"] == expected(other, tmp_path)


@pytest.mark.parametrize(
    "when",
    [
        r"HEAD /[^/]+/[^/]+/resolve/[^/]+/config\.json",
        r"GET /[^/]+/[^/]+/resolve/[^/]+/config\.json",
        r"\w+ /[^/]+/[^/]+/resolve/[^/]+/(tokenizer\.json|flax_model\.msgpack)",
    ],
    ids=["after the listing", "within the first file", "after the first file"],
)
def test_a_revision_that_moves(when: str, machine: Machine, base: Path, other: Path, tmp_path: Path) -> None:
    """Someone pushes during the download: all files are of the old commit or all of the new one, in the cache too."""
    with Hub({BASE: {"main": base, "next": other}}) as hub:
        machine.endpoint = hub.url
        hub.fault(when, moving(BASE, "main", "next"), times=1)
        record = machine.converted("bart-base")
        assert hub.folder_of(BASE, "main") == other
        assert machine.converted("bart-base", HF_HUB_OFFLINE="1") == record
    commits = {commit_of(folder): folder for folder in (base, other)}
    assert record["files"] == expected(commits[record["commit"]], tmp_path)
    for cached in machine.cache.glob("*/snapshots/*/*"):
        assert cached.read_bytes() == (commits[cached.parent.name] / cached.name).read_bytes()


def test_a_connection_that_breaks_once(hub: Hub, machine: Machine, base: Path, tmp_path: Path) -> None:
    """The client resumes by itself; before version 2 it may need the next run."""
    hub.fault(WEIGHTS, broken_off(6000), times=1)
    done = machine.convert("bart-base")
    if int(huggingface_hub.__version__.partition(".")[0]) >= 2:
        assert done.returncode == 0 and "resume" in done.stderr
    else:
        assert done.returncode == 0 or "Run it again" in done.stderr
    assert machine.converted("bart-base", "--overwrite")["files"] == expected(base, tmp_path)
    assert hub.downloads() == sorted([*NEEDED, "flax_model.msgpack"])


@pytest.mark.parametrize("prefer", ["flax", "safetensors"])
def test_shards(prefer: str, tmp_path: Path, machine: Machine) -> None:
    """Only the shards of the format that is read are downloaded, after their index."""
    folder = repository(tmp_path / "repository", "flax-msgpack-sharded", "converted")
    shards = [f"flax_model-0000{i}-of-00003.msgpack" for i in (1, 2, 3)]
    files = {"flax": [*shards, "flax_model.msgpack.index.json"], "safetensors": ["model.safetensors"]}[prefer]
    with Hub({"some/body": {"main": folder}}) as hub:
        machine.endpoint = hub.url
        record = machine.converted("some/body", *(["--prefer", prefer] if prefer != "flax" else []))
        assert hub.downloads() == sorted([*files, "config.json", "generation_config.json", *TOKENIZER])
    assert set(record["read"]) == set(files) - {"flax_model.msgpack.index.json"}
    assert record["files"]["model.safetensors"] == (REFERENCES / "converted" / "model.safetensors").read_bytes()


def test_a_subfolder(tmp_path: Path, machine: Machine, base: Path) -> None:
    """In a repository with another model at its root."""
    shutil.copytree(base, tmp_path / "repository")
    repository(tmp_path / "repository" / "heads" / "classifier", "torch-classifier-sharded")
    with Hub({BASE: {"main": tmp_path / "repository"}}) as hub:
        machine.endpoint = hub.url
        record = machine.converted("bart-base", "--subfolder", "heads/classifier")
        shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        files = ["config.json", *shards, "model.safetensors.index.json", *TOKENIZER]
        assert hub.downloads() == sorted(f"heads/classifier/{name}" for name in files)
    assert (record["repository"], record["subfolder"]) == (BASE, "heads/classifier")
    assert record["model"] == "BartForSequenceClassification"
    assert record["files"] == expected(tmp_path / "repository" / "heads" / "classifier", tmp_path)


def test_from_pretrained(hub: Hub, machine: Machine, base: Path, tmp_path: Path) -> None:
    """It takes the same sources, and downloads them in the same way."""
    program = "import bart_eqx, sys; bart_eqx.save_pretrained(bart_eqx.from_pretrained('bart-base'), sys.argv[1])"
    done = machine.run("-c", program, str(machine.target))
    assert (done.returncode, done.stderr) == (0, "")
    assert {"config.json", "flax_model.msgpack"} <= set(hub.downloads()) <= set(NEEDED)
    weights = "model.safetensors"
    assert (machine.target / weights).read_bytes() == expected(base, tmp_path)[weights]
