"""Finding a checkpoint: one of the package's own, a folder, a file, or a repository on the Hugging Face Hub."""

import contextlib
import importlib.resources
import re
from pathlib import Path, PurePosixPath

from .errors import AccessError, SourceNotFoundError
from .formats.shards import WEIGHT_FILES, Format, check_weights_name, main_file
from .source import ALIASES, DEMOS, Source, parse_hub_name


_NOT_AN_ID = re.compile(r"^[.~/\\]|^[A-Za-z]:[\\/]|\\|://")


def find(
    source: str | Path, *, revision: str | None = None, subfolder: str | None = None, prefer: Format | None = None
) -> Source:
    """Find a checkpoint, and download it if necessary.

    Args:
        source: `"demo"`, `"demo-text"`, a folder, a file of weights next to its config.json, the id or URL of a
            repository on the Hub, or a short name in `ALIASES`. A path that exists takes precedence over the Hub.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.
        prefer: The format to read where there are several; by default the first of msgpack, safetensors, pickle.

    Raises:
        CheckpointError: a `SourceNotFoundError`, `AccessError`, `DownloadError`, `UnsupportedCheckpointError` or
            `TargetError` if there is no such checkpoint, or it cannot be read or downloaded.
    """
    subfolder = _relative(subfolder, source)
    place = _resolve(source, revision, subfolder)
    if isinstance(place, Path):
        return _find_locally(place, subfolder, prefer)
    from .hub import download  # takes half a second to import, for which a local folder should not wait

    return download(*place, prefer)


def find_tokenizer(source: str | Path, *, revision: str | None = None, subfolder: str | None = None) -> Path:
    """The folder of a checkpoint's tokenizer. From the Hub, no weights are downloaded.

    Args:
        source: As for `find`; a folder need not have weights.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.

    Raises:
        CheckpointError: as `find` does.
    """
    subfolder = _relative(subfolder, source)
    place = _resolve(source, revision, subfolder)
    if isinstance(place, Path):
        return (place if place.is_dir() else place.parent) / (subfolder or "")
    from .hub import download_tokenizer

    return download_tokenizer(*place)


def _relative(subfolder: str | None, source: str | Path) -> str | None:
    """A subfolder without a trailing slash."""
    if subfolder is None:
        return None
    path = PurePosixPath(subfolder)
    if path.is_absolute() or ".." in path.parts:
        raise SourceNotFoundError(f"`subfolder` must be inside {str(source)!r}. Got {subfolder!r}.")
    return path.as_posix()


def _resolve(
    source: str | Path, revision: str | None, subfolder: str | None
) -> Path | tuple[str, str | None, str | None]:
    """A path on this machine; or a repository on the Hub, its revision, and its subfolder."""
    if not str(source).strip():
        raise SourceNotFoundError(f"Name a checkpoint: a folder, or an id on the Hub. Got {str(source)!r}.")
    path = Path(source)
    try:
        path = path.expanduser()
        exists = path.exists()
    except OSError as error:  # a name that is too long, or has invalid characters
        raise SourceNotFoundError(f"{str(source)!r:.200} is not a valid path ({error.strerror}).") from None
    except (ValueError, RuntimeError) as error:  # a null byte; `~user` of an unknown user
        raise SourceNotFoundError(f"{str(source)!r:.200} is not a valid path ({error}).") from None
    if not exists and str(source) in DEMOS:
        path = Path(str(importlib.resources.files("bart_eqx") / DEMOS[str(source)]))
        exists = True
    if exists:
        if revision is not None:
            raise SourceNotFoundError(
                f"{str(path)!r} is on this machine and has no revision {revision!r}: leave it out."
            )
        return path
    repository, url_revision, url_subfolder = parse_hub_name(str(source))
    if isinstance(source, Path) or _NOT_AN_ID.search(repository):
        raise SourceNotFoundError(f"There is no folder {str(path)!r}: check its spelling and the current directory.")
    return ALIASES.get(repository, repository), revision or url_revision, subfolder or url_subfolder


def _find_locally(path: Path, subfolder: str | None, prefer: Format | None) -> Source:
    folder, weights = path, None
    if not path.is_dir():
        check_weights_name(path)
        if subfolder is not None:
            raise SourceNotFoundError(f"{str(path)!r} is a file, and has no subfolder {subfolder!r}.")
        folder, weights = path.parent, path
    elif subfolder is not None:
        folder = path / subfolder
        if not folder.is_dir():
            raise SourceNotFoundError(f"{str(path)!r} has no folder {subfolder!r}.")
    try:
        names = _names(folder)
    except OSError as error:
        raise AccessError(f"{str(folder)!r} cannot be read ({error.strerror}): check its permissions.") from None
    weights = folder / main_file(names, str(folder), folder.joinpath, prefer) if weights is None else weights
    return Source(path.resolve().name, folder, weights, subfolder=subfolder)


def _names(folder: Path) -> set[str]:
    """The entries of a folder, and if it has no weights those of the folders inside it, as `folder/entry`."""
    names = {entry.name for entry in folder.iterdir()}
    if names.isdisjoint(WEIGHT_FILES):
        for inner in filter(Path.is_dir, folder.iterdir()):
            with contextlib.suppress(PermissionError):
                names |= {f"{inner.name}/{entry.name}" for entry in inner.iterdir()}
    return names
