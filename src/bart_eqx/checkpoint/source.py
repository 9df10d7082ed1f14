"""Where a checkpoint is: the package's own demo, a folder, or a repository on the Hugging Face Hub."""

import importlib.resources
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from .errors import CheckpointError
from .files import WEIGHT_FILES, shards_of


DEMO = "demo"
ALIASES = {
    "bart-base": "facebook/bart-base",
    "bart-large": "facebook/bart-large",
    "bart-large-cnn": "facebook/bart-large-cnn",
    "bart-large-mnli": "facebook/bart-large-mnli",
    "bart-large-xsum": "facebook/bart-large-xsum",
    "distilbart-cnn-12-6": "sshleifer/distilbart-cnn-12-6",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def find_folder(source: str | Path, revision: str | None = None) -> Path:
    """The local folder that holds a checkpoint, downloaded if need be.

    Args:
        source: `"demo"`, a folder, the id of a repository on the Hub, or one of the short names in `ALIASES`. A folder
            of that name comes before anything else.
        revision: A branch, tag or commit on the Hub.

    Raises:
        CheckpointError: if there is no such thing, or the Hub cannot be reached and the files are not in its cache.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{folder} is a folder, and has no revision {revision!r}.")
        return folder
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file: give the folder that holds it, with its config.json.")
    if str(source) == DEMO:
        return Path(str(importlib.resources.files("bart_eqx") / "demo"))
    repository = ALIASES.get(str(source), str(source))
    if isinstance(source, Path) or repository.startswith((".", "/", "~")):
        raise CheckpointError(f"There is no folder {folder}.")
    return _download(repository, revision)


def _download(repository: str, revision: str | None) -> Path:
    known = f"Short names are: {', '.join(sorted(ALIASES))}."
    try:
        small = ["config.json", "generation_config.json", *TOKENIZER_FILES]
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=small))
        commit = folder.name  # all files of one commit, even if the branch moves on meanwhile
        for name in WEIGHT_FILES:
            try:
                path = huggingface_hub.hf_hub_download(repository, name, revision=commit)
            except EntryNotFoundError:
                continue
            if name.endswith(".json"):
                shards = [shard.name for shard in shards_of(Path(path), must_exist=False)]
                huggingface_hub.snapshot_download(repository, revision=commit, allow_patterns=shards)
            return folder
    except HFValidationError as error:
        raise CheckpointError(
            f"{repository!r} is neither a folder nor the id of a repository on the Hub. {known}"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The Hub has no repository {repository!r}, or it is private and you are not logged in. {known}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repository!r} is not in the local cache, and the Hub cannot be reached. Are HF_HUB_OFFLINE and "
            f"HF_ENDPOINT set as you mean? {known}"
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"The Hub refuses {repository!r}, revision {revision!r}: {error}") from error
    raise CheckpointError(
        f"{repository!r} has none of {', '.join(WEIGHT_FILES)}. If it has a pytorch_model.bin, its page may list a "
        "`refs/pr/N` in which the Hub's bot has put safetensors: give that as the revision."
    )
