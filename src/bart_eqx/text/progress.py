"""A progress bar on a terminal, and nothing elsewhere. `HF_HUB_DISABLE_PROGRESS_BARS` turns it off."""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator


_off = contextvars.ContextVar("no_progress", default=False)


@contextlib.contextmanager
def progress_of_rows(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar of `total` rows: a function that is called with the number of rows done since the last call."""
    if total < 2 or _off.get() or not sys.stderr.isatty():
        yield lambda count: None
        return
    from huggingface_hub.utils import tqdm  # its import takes half a second

    with tqdm(desc=label, total=total, unit="row") as bar:
        yield bar.update


@contextlib.contextmanager
def no_progress() -> Iterator[None]:
    """A block without bars of rows, for a caller that shows the progress of something larger."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)
