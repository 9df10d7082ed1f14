"""Where a checkpoint is: the package's own demo, a folder, a file, or a repository on the Hugging Face Hub."""

import dataclasses
import difflib
import importlib.resources
import re
import urllib.parse
from pathlib import Path, PurePosixPath

from .errors import AccessError, SourceNotFoundError
from .files import Format, check_is_weights, first_file


DEMO = "demo"
ALIASES = {
    "bart-base": "facebook/bart-base",
    "bart-large": "facebook/bart-large",
    "bart-large-cnn": "facebook/bart-large-cnn",
    "bart-large-mnli": "facebook/bart-large-mnli",
    "bart-large-xsum": "facebook/bart-large-xsum",
    "distilbart-cnn-6-6": "sshleifer/distilbart-cnn-6-6",
    "distilbart-cnn-12-3": "sshleifer/distilbart-cnn-12-3",
    "distilbart-cnn-12-6": "sshleifer/distilbart-cnn-12-6",
    "distilbart-xsum-12-1": "sshleifer/distilbart-xsum-12-1",
    "distilbart-xsum-12-3": "sshleifer/distilbart-xsum-12-3",
    "distilbart-xsum-12-6": "sshleifer/distilbart-xsum-12-6",
    "distilbart-mnli-12-1": "valhalla/distilbart-mnli-12-1",
    "distilbart-mnli-12-3": "valhalla/distilbart-mnli-12-3",
}
_URL = re.compile(r"^(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?)(.+)$")
_NOT_AN_ID = re.compile(r"^[.~/\\]|^[A-Za-z]:[\\/]|\\|://")


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint on this machine, and where it came from."""

    name: str
    """What it is called: the repository, or the folder's or the file's own name."""
    folder: Path
    first: Path
    """The file of weights with which to begin: all of them, or their index."""
    repository: str | None = None
    commit: str | None = None
    revision: str | None = None
    subfolder: str | None = None


def find(
    source: str | Path, *, revision: str | None = None, subfolder: str | None = None, prefer: Format | None = None
) -> Source:
    """Find a checkpoint, and download it if need be.

    Args:
        source: `"demo"`, a folder, a file of weights beside its config.json, the id or the address of a repository on
            the Hub, or one of the short names in `ALIASES`. What exists here comes before the Hub.
        revision: A branch, tag or commit on the Hub.
        subfolder: Of the folder, or of the repository.
        prefer: The format to read, of several; by default the first of msgpack, safetensors, and PyTorch's own.

    Raises:
        CheckpointError: one of its kinds, if there is no such thing, or it cannot be had.
    """
    subfolder = None if subfolder is None else PurePosixPath(subfolder).as_posix()  # without a slash at its end
    if subfolder is not None and (PurePosixPath(subfolder).is_absolute() or ".." in PurePosixPath(subfolder).parts):
        raise SourceNotFoundError(f"`subfolder` must lie inside {source}. Got {subfolder!r}.")
    path = Path(source)
    try:
        path = path.expanduser()
        exists = path.exists()
    except OSError as error:  # a name too long, or with what no name may hold
        raise SourceNotFoundError(f"{str(source)!r:.200} cannot be looked for ({error.strerror}).") from None
    except (ValueError, RuntimeError) as error:  # a zero byte; nobody's home
        raise SourceNotFoundError(f"{str(source)!r:.200} cannot be looked for ({error}).") from None
    if not exists and str(source) == DEMO:
        path = Path(str(importlib.resources.files("bart_eqx") / "demo"))
        exists = True
    if exists:
        if revision is not None:
            raise SourceNotFoundError(f"{path} is on this machine, and has no revision {revision!r}: leave it out.")
        return _local(path, subfolder, prefer)
    repository = str(source).rstrip("/")
    if address := _URL.match(repository):
        repository, named, below = _of_address(address[1])
        revision, subfolder = revision or named, subfolder or below
    if isinstance(source, Path) or _NOT_AN_ID.search(repository):
        raise SourceNotFoundError(f"There is no folder {path}: look at its spelling, and where you are.")
    from .hub import download  # takes half a second to import, which a folder need not wait for

    return download(ALIASES.get(repository, repository), revision, subfolder, prefer)


def _local(path: Path, subfolder: str | None, prefer: Format | None) -> Source:
    folder, first = path, None
    if not path.is_dir():
        check_is_weights(path)
        if subfolder is not None:
            raise SourceNotFoundError(f"{path} is a file, and has no subfolder {subfolder!r}.")
        folder, first = path.parent, path
    elif subfolder is not None:
        folder = path / subfolder
        if not folder.is_dir():
            raise SourceNotFoundError(f"{path} has no folder {subfolder!r}.")
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise AccessError(f"{folder} cannot be read ({error.strerror}): ask its owner.") from None
    first = folder / first_file(names, str(folder), prefer) if first is None else first
    return Source(path.resolve().name, folder, first, subfolder=subfolder)


def repository_of(source: str) -> str:
    """The id, or the short name, that a source on the Hub has."""
    address = _URL.match(source)
    return _of_address(address[1])[0] if address else source.rstrip("/")


def _of_address(address: str) -> tuple[str, str | None, str | None]:
    """The repository, the revision and the folder that the address of a page names; the folder of a file."""
    parts = [urllib.parse.unquote(part) for part in re.split("[?#]", address)[0].strip("/").split("/")]
    if len(parts) < 4 or parts[2] not in ("tree", "blob", "resolve"):
        return "/".join(parts), None, None
    folders = parts[4:] if parts[2] == "tree" else parts[4:-1]  # a slash inside of a revision is written %2F
    return "/".join(parts[:2]), parts[3], "/".join(folders) or None


def suggestion(repository: str) -> str:
    """What may have been meant."""
    if repository in ALIASES.values():
        return "Is it spelt so on the Hub?"
    near = difflib.get_close_matches(repository.rpartition("/")[2], ALIASES, 3, 0.75)
    return f"Did you mean {' or '.join(near)}?" if near else f"Short names are: {', '.join(sorted(ALIASES))}."
