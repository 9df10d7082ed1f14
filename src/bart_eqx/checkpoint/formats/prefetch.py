"""Reading ahead: the next arrays are read by other threads while one is used."""

import collections
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar


T = TypeVar("T")
Reads = Callable[[Callable[[str], T], Mapping[str, int]], Iterator[T]]
"""How several arrays are read: `prefetch`, or a function that calls its argument with one name after the other."""
_THREADS = 2
_MAX_BYTES = 2**26  # read and not yet used


def prefetch(function: Callable[[str], T], sizes: Mapping[str, int]) -> Iterator[T]:
    """`map(function, sizes)`, computed in advance by threads.

    The largest one starts first: the token embedding is the last array of a file, and takes longer than the rest
    could hide.

    Args:
        function: Called once with each name.
        sizes: The names in order, each with the bytes that its result takes. Results of at most 64 MB, and one more,
            wait to be used at any time.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: collections.deque[tuple[Future[T], int]] = collections.deque()
        largest = max(sizes, key=lambda name: sizes[name], default="")
        started = {largest: pool.submit(function, largest)} if sizes else {}
        try:
            for name, size in sizes.items():
                while sum(size for _, size in waiting) > _MAX_BYTES:
                    yield waiting.popleft()[0].result()
                waiting.append((started.pop(name, None) or pool.submit(function, name), size))
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)
