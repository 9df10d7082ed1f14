"""Where a checkpoint is on this machine, and how the Hugging Face Hub's repositories are named."""

import dataclasses
import difflib
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path


DEMOS = {"demo": "demo", "demo-text": "demo_text"}  # the checkpoints inside the package, and their folders
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


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint on this machine, and where it came from.

    Args:
        name: The repository's id, or the name of the folder or file.
        folder: The folder of its config.json.
        weights: Its file of weights, or the index of its shards.
        repository: The id of the repository on the Hub.
        commit: The commit to which `revision` was resolved.
        revision: The branch, tag or commit that was requested.
        subfolder: The folder inside the source.
    """

    name: str
    folder: Path
    weights: Path
    repository: str | None = None
    commit: str | None = None
    revision: str | None = None
    subfolder: str | None = None


def parse_hub_name(source: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and subfolder from the URL of a page on the Hub; any other text is a repository."""
    source = source.rstrip("/")
    url = _URL.match(source)
    return (source, None, None) if url is None else _parse_path(url[1])


def _parse_path(path: str) -> tuple[str, str | None, str | None]:
    """As `parse_hub_name`, from the path of the URL. For a page of a file, the subfolder is the file's folder."""
    parts = [urllib.parse.unquote(part) for part in re.split("[?#]", path)[0].strip("/").split("/")]
    if len(parts) < 4 or parts[2] not in ("tree", "blob", "resolve"):
        return "/".join(parts), None, None
    folders = parts[4:] if parts[2] == "tree" else parts[4:-1]  # a slash inside a revision is written %2F
    return "/".join(parts[:2]), parts[3], "/".join(folders) or None


def repository_of(source: str) -> str:
    """The repository id, or the alias, in a source on the Hub."""
    return parse_hub_name(source)[0]


def suggestion(repository: str) -> str:
    """A sentence for an error message about a name that the Hub does not know: which short names are close to it."""
    if repository in ALIASES.values():
        return "Is it spelt so on the Hub?"
    near = _near(repository.rpartition("/")[2], [*DEMOS, *ALIASES], 0.75)
    return f"Did you mean {' or '.join(near)}?" if near else f"Short names are: {', '.join(sorted(ALIASES))}."


def guess(repository: str) -> str:
    """A sentence for an error message about a name that the Hub was not asked for, and that may be right; or nothing.

    A name without an owner must be a short name or a folder.
    """
    if repository in ALIASES.values():
        return ""
    if "/" not in repository:
        return f"There is no folder {repository!r} either. {suggestion(repository)}"
    near = _near(repository, list(ALIASES.values()), 0.9)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _near(name: str, names: Sequence[str], cutoff: float) -> list[str]:
    lower = {other.lower(): other for other in names}
    return [lower[close] for close in difflib.get_close_matches(name.lower(), lower, 3, cutoff)]
