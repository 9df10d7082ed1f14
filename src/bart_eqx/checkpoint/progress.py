"""Progress bars, with the Hub client's own switches (`HF_HUB_DISABLE_PROGRESS_BARS`), and none but on a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar of `total` bytes, which is told by how many it grows."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from huggingface_hub.utils import tqdm  # takes as long to import as a small conversion takes

    with tqdm(desc=what, total=total, unit="B", unit_scale=True) as bar:
        yield bar.update
