"""Progress bars on a terminal. The Hub client's switch `HF_HUB_DISABLE_PROGRESS_BARS` turns them off."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar of `total` bytes: a function that is called with the number of bytes done since the last call."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from huggingface_hub.utils import tqdm  # its import takes as long as a small conversion

    with tqdm(desc=label, total=total, unit="B", unit_scale=True) as bar:
        yield bar.update
