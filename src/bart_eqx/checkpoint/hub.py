"""Downloading from the Hugging Face Hub into its client's cache: the files that are needed, all of one commit."""

import errno
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from .atomic_folder import check_space
from .errors import AccessError, DownloadError, SourceNotFoundError, TargetError
from .formats.shards import WEIGHT_FILES, Format, main_file, refuse_unreadable, shard_names
from .source import Source, guess, suggestion
from .tokenizer import TOKENIZER_FILES


logger = logging.getLogger("bart_eqx")

_SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
# huggingface_hub uses requests before version 1 and httpx since, whose errors derive from its `HTTPError`.
_NETWORK: tuple[type[Exception], ...] = (OSError, *errors.HfHubHTTPError.__bases__)  # pyright: ignore


def download(repository: str, revision: str | None, subfolder: str | None, prefer: Format | None) -> Source:
    """Download the files that a model needs, unless they are in the cache.

    The revision is resolved to a commit once, so that all files are of one commit even if it moves meanwhile. Without
    the Hub (`HF_HUB_OFFLINE=1`, or no network) all files must be in the cache.

    Args:
        repository: Its id, `owner/name`.
        revision: A branch, tag or commit; by default `main`.
        subfolder: A folder of the repository.
        prefer: The format to download where there are several.

    Raises:
        SourceNotFoundError: if there is no such repository or revision, or it has no weights.
        AccessError: if it is gated, disabled or private.
        DownloadError: if the Hub is unreachable or its answer invalid, and the cache is incomplete.
        TargetError: if the cache cannot be written, or its disk has too little space.
        UnsupportedCheckpointError: if it has weights only in formats that are not read here.
    """
    where = f"{repository}/{subfolder}" if subfolder else repository
    prefix = f"{subfolder}/" if subfolder else ""
    config = f"{prefix}config.json"
    with _explained(repository, revision):
        commit, sizes, online = _resolve(repository, revision, config)
        names = {name.removeprefix(prefix) for name in sizes if name.startswith(prefix)}

        def fetch(name: str) -> Path:
            if name not in names:
                raise SourceNotFoundError(f"{where} has no {name} at commit {commit}: it is not a checkpoint.")
            return Path(huggingface_hub.hf_hub_download(repository, prefix + name, revision=commit))

        try:
            if "config.json" not in names:
                if names.isdisjoint(WEIGHT_FILES):
                    refuse_unreadable(names, where, fetch)
                raise SourceNotFoundError(f"{repository!r}{_of(revision)} has no {config}: it is not a checkpoint.")
            weights = main_file(names, where, fetch, prefer)
            folder = fetch("config.json").parent
            needed = [name for name in _SMALL_FILES if name in names]
            needed += [weights, *shard_names(fetch(weights))] if weights.endswith(".json") else [weights]
            missing = sum(sizes.get(prefix + name, 0) for name in needed if not (folder / name).exists())
            check_space(Path(constants.HF_HUB_CACHE), missing, "set HF_HOME to a folder on another disk")
            for name in needed:
                fetch(name)
        except SourceNotFoundError as error:
            if online:
                raise
            raise DownloadError(
                f"{error} Only a part of it is in the cache, {constants.HF_HUB_CACHE}, and the Hub is unreachable: "
                "check HF_HUB_OFFLINE."
            ) from None
        if online:
            _record_revision((folder / "config.json").parents[config.count("/")], revision or "main")
    return Source(repository, folder, folder / weights, repository, commit, revision, subfolder)


def download_tokenizer(repository: str, revision: str | None, subfolder: str | None) -> Path:
    """Download config.json and the tokenizer's files, unless they are in the cache.

    Args:
        repository: Its id, `owner/name`.
        revision: A branch, tag or commit; by default `main`.
        subfolder: A folder of the repository.

    Returns:
        Their folder in the cache.

    Raises:
        CheckpointError: as `download` does.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    with _explained(repository, revision):
        commit, sizes, online = _resolve(repository, revision, f"{prefix}config.json")
        names = [prefix + name for name in _SMALL_FILES if prefix + name in sizes]
        if not names:
            raise SourceNotFoundError(f"{repository!r}{_of(revision)} has no tokenizer in {subfolder or 'its root'!r}.")
        files = [Path(huggingface_hub.hf_hub_download(repository, name, revision=commit)) for name in names]
        if online:
            _record_revision(files[0].parents[names[0].count("/")], revision or "main")
    return files[0].parent


def _record_revision(snapshot: Path, revision: str) -> None:
    """Record in the cache, as the client does, which commit a revision was, for later offline use.

    The client does so when it downloads a file by its revision, which may have moved by then.
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
    except OSError as error:  # a read-only cache
        logger.debug("The cache does not record the commit of %s: %s", revision, error)


def _resolve(repository: str, revision: str | None, config: str) -> tuple[str, dict[str, int], bool]:
    """The commit of a revision, the sizes of its files in bytes, and whether this is from the Hub and not the cache."""
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
    except (
        *_NETWORK,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # not the Hub: an HTML page, or other JSON
        return *_cached(repository, revision, config, error), False
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return str(info.sha), sizes, True


def _cached(repository: str, revision: str | None, config: str, reason: Exception) -> tuple[str, dict[str, int]]:
    """The commit of a revision in the cache, and the sizes of its files that are there. `reason` is for the error."""
    file = huggingface_hub.try_to_load_from_cache(repository, config, revision=revision)
    if not isinstance(file, str):
        raise DownloadError(
            f"{repository!r}{_of(revision)} is not in the local cache, {constants.HF_HUB_CACHE}, and the Hub at "
            f"{constants.ENDPOINT} is unreachable ({_short(reason)}). Check HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME. "
            f"{guess(repository)}".rstrip()
        ) from None
    snapshot = Path(file).parents[config.count("/")]
    if not constants.HF_HUB_OFFLINE:
        logger.warning("The Hub is unreachable (%s): using %s as it is in the cache.", _short(reason), repository)
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    return snapshot.name, {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in files}


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turns the client's errors into `CheckpointError`s."""
    try:
        yield
    except errors.HFValidationError:
        raise SourceNotFoundError(
            f"{repository!r:.200} is neither a folder nor the id of a repository on the Hub, owner/name. "
            f"{suggestion(repository)}"
        ) from None
    except errors.GatedRepoError as error:
        raise AccessError(
            f"{repository!r} is gated: request access on its page, then run `hf auth login` ({_short(error)})."
        ) from None
    except errors.DisabledRepoError as error:
        raise AccessError(f"{repository!r} is disabled on the Hub ({_short(error)}).") from None
    except errors.RepositoryNotFoundError:
        raise SourceNotFoundError(
            f"The Hub at {constants.ENDPOINT} has no repository {repository!r}, or it is private and needs "
            f"`hf auth login`. {suggestion(repository)}"
        ) from None
    except errors.RevisionNotFoundError:
        raise SourceNotFoundError(
            f"{repository!r} has no branch, tag or commit {revision!r}: see the list on its page."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"The download of {repository!r}{_of(revision)} was interrupted ({_short(error.__cause__ or error)}). Run "
            "it again: complete files are in the cache."
        ) from None
    except errors.EntryNotFoundError as error:
        raise DownloadError(f"{repository!r} lists a file that is not on the Hub ({_short(error)}).") from None
    except _NETWORK as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise TargetError(
                f"The cache, {constants.HF_HUB_CACHE!r}, cannot be written ({error.strerror}): set HF_HOME to a folder "
                "that you may write to and that has space."
            ) from None
        raise DownloadError(
            f"The download of {repository!r}{_of(revision)} failed ({_short(error)}). Run it again: complete "
            "files are in the cache."
        ) from None


def _of(revision: str | None) -> str:
    return "" if revision is None else f", revision {revision!r},"


def _short(error: BaseException) -> str:
    """An error as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
