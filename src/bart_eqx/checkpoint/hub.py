"""Repositories on the Hugging Face Hub, into its client's cache: one commit, and no file that is not needed."""

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from .errors import AccessError, DownloadError, SourceNotFoundError, TargetError
from .files import Format, first_file, named_by
from .source import Source, suggestion
from .tokenizer import TOKENIZER_FILES


logger = logging.getLogger("bart_eqx")

_SMALL = ("config.json", "generation_config.json", *TOKENIZER_FILES)
# huggingface_hub speaks by requests before version 1, and by httpx since; an `HTTPError` is the base of the latter's.
_NETWORK: tuple[type[Exception], ...] = (OSError, *errors.HfHubHTTPError.__bases__)  # pyright: ignore


def download(repository: str, revision: str | None, subfolder: str | None, prefer: Format | None) -> Source:
    """Download what a model needs of a repository, unless the cache has it.

    The revision is resolved to a commit once, so that all files are of one commit though it may move meanwhile. Without
    the Hub (`HF_HUB_OFFLINE=1`, or no network) the cache must have all of it.

    Raises:
        SourceNotFoundError: if there is no such repository or revision, or it has no weights.
        AccessError: if it is gated, disabled, or private.
        DownloadError: if the Hub cannot be reached, or sends what it should not, and the cache has not all of it.
        TargetError: if the cache's disk has not the room.
    """
    where = f"{repository}/{subfolder}" if subfolder else repository
    prefix = f"{subfolder}/" if subfolder else ""
    config = f"{prefix}config.json"
    with _explained(repository, revision):
        commit, sizes, online = _resolve(repository, revision, config)
        names = {name.removeprefix(prefix) for name in sizes if name.startswith(prefix)}

        def fetch(name: str) -> Path:
            if name not in names:
                raise SourceNotFoundError(f"{where} has no {name}, at commit {commit}: it is not a checkpoint.")
            return Path(huggingface_hub.hf_hub_download(repository, prefix + name, revision=commit))

        try:
            first = first_file(names, where, prefer)
            folder = fetch("config.json").parent
            needed = [name for name in _SMALL if name in names]
            needed += [first, *named_by(fetch(first))] if first.endswith(".json") else [first]
            _check_room({name: sizes.get(prefix + name, 0) for name in needed if not (folder / name).exists()})
            for name in needed:
                fetch(name)
        except SourceNotFoundError as error:
            if online:
                raise
            raise DownloadError(
                f"{error} Only a part of it is in the cache, {constants.HF_HUB_CACHE}, and the Hub cannot be asked: is "
                "HF_HUB_OFFLINE as you mean it?"
            ) from None
        if online:
            _remember((folder / "config.json").parents[config.count("/")], revision or "main")
    return Source(repository, folder, folder / first, repository, commit, revision, subfolder)


def _remember(snapshot: Path, revision: str) -> None:
    """Have the cache know which commit the revision was, for when there is no Hub, in the client's own layout.

    The client does so when a file is asked for by its revision; by then that may be another commit.
    """
    refs = snapshot.parents[1] / "refs"
    ref = refs / revision
    if revision == snapshot.name or not ref.resolve().is_relative_to(refs.resolve()):
        return
    try:
        if ref.exists() and ref.read_text() == snapshot.name:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        partial = ref.with_name(f"{ref.name}.{uuid.uuid4().hex[:8]}")
        partial.write_text(snapshot.name)
        os.replace(partial, ref)
    except OSError as error:  # somebody else's cache, to be read alone
        logger.debug("The cache does not remember what %s is now: %s", revision, error)


def _resolve(repository: str, revision: str | None, config: str) -> tuple[str, dict[str, int], bool]:
    """The commit that a revision is, the sizes of its files, and whether the Hub said so, or the cache."""
    try:
        info = huggingface_hub.HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (
        errors.HFValidationError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.DisabledRepoError,
    ):
        raise
    except (*_NETWORK, ValueError, LookupError, TypeError, AttributeError) as error:  # a page, or other JSON
        return *_cached(repository, revision, config, error), False
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if config not in sizes:
        raise SourceNotFoundError(f"{repository!r}{_of(revision)} has no {config}: it is not a checkpoint.")
    return str(info.sha), sizes, True


def _cached(repository: str, revision: str | None, config: str, reason: Exception) -> tuple[str, dict[str, int]]:
    """The commit that the cache last saw, and the files that it has of it."""
    file = huggingface_hub.try_to_load_from_cache(repository, config, revision=revision)
    if not isinstance(file, str):
        raise DownloadError(
            f"{repository!r}{_of(revision)} is not in the local cache, {constants.HF_HUB_CACHE}, and the Hub at "
            f"{constants.ENDPOINT} cannot be asked ({_short(reason)}). Are HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME as "
            "you mean them?"
        ) from None
    snapshot = Path(file).parents[config.count("/")]
    if not constants.HF_HUB_OFFLINE:
        logger.warning("The Hub cannot be asked (%s): %s as it is in the cache.", _short(reason), repository)
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    return snapshot.name, {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in files}


def _check_room(sizes: dict[str, int]) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free, wanted = shutil.disk_usage(existing).free, sum(sizes.values())
    if wanted > free:
        raise TargetError(
            f"The download has {wanted:,} bytes, and there is room for {free:,} under {cache}: make room, or set "
            "HF_HOME to a folder on another disk."
        )


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except errors.HFValidationError:
        raise SourceNotFoundError(
            f"{repository!r:.200} is neither a folder nor the id of a repository on the Hub, as owner/name. "
            f"{suggestion(repository)}"
        ) from None
    except errors.GatedRepoError as error:
        raise AccessError(
            f"{repository!r} is gated: ask for access on its page, then log in with `hf auth login` ({_short(error)})."
        ) from None
    except errors.DisabledRepoError as error:
        raise AccessError(f"{repository!r} is disabled by the Hub ({_short(error)}).") from None
    except errors.RepositoryNotFoundError:
        raise SourceNotFoundError(
            f"The Hub at {constants.ENDPOINT} has no repository {repository!r}, or it is private and you are not "
            f"logged in (`hf auth login`). {suggestion(repository)}"
        ) from None
    except errors.RevisionNotFoundError:
        raise SourceNotFoundError(
            f"{repository!r} has no branch, tag or commit {revision!r}: its page lists those that it has."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"The download of {repository!r}{_of(revision)} was broken off ({_short(error.__cause__ or error)}). Run "
            "it again: what is complete is in the cache."
        ) from None
    except errors.EntryNotFoundError as error:
        raise DownloadError(f"{repository!r} lists a file that the Hub does not have ({_short(error)}).") from None
    except _NETWORK as error:
        raise DownloadError(
            f"The download of {repository!r}{_of(revision)} failed ({_short(error)}). Run it again: what is "
            "complete is in the cache."
        ) from None


def _of(revision: str | None) -> str:
    return "" if revision is None else f", revision {revision!r},"


def _short(error: BaseException) -> str:
    """An error of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
