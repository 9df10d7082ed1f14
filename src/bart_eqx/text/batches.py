"""Batches of rows of similar length: few shapes, each of which is a compiled program, and little padding.

All batches hold about the same number of tokens, so that a short row does not wait for a long one, and memory is
bounded. The widths of a call are chosen by its lengths: at most `MAX_WIDTHS` of a fixed ladder, so that other calls
reuse the compiled programs.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


MAX_SHAPES, MAX_WIDTHS = 12, 11
COMPILATION = 0.125  # of a batch: the padding that a further shape must save
_STEPS, _SMALLEST = 8, 4  # rungs of the ladder in each octave, and the least distance between two


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows that are computed together.

    Args:
        rows: The index of each.
        size: Rows of the array; those after `rows` are not read.
        width: Tokens of a row of the array.
    """

    rows: tuple[int, ...]
    size: int
    width: int


def plan_batches(lengths: Sequence[int], *, batch_tokens: int, max_width: int) -> list[Batch]:
    """Put every row into a batch.

    Args:
        lengths: The tokens of each row.
        batch_tokens: The maximum number of tokens in a batch, padding included; a longer row is a batch of its own.
        max_width: The maximum number of tokens in a row: the positions of the model.

    Returns:
        Batches, the widest first. They have at most `MAX_SHAPES` shapes.

    Raises:
        ValueError: if a row has more than `max_width` tokens.
    """
    if not lengths:
        return []
    if max(lengths) > max_width:
        raise ValueError(f"A row may have at most {max_width} tokens. Got {max(lengths)}.")
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    ordered = [lengths[index] for index in order]
    widths = best_widths(ordered, max_width, most=MAX_WIDTHS, price=batch_tokens * COMPILATION)
    extra = MAX_SHAPES - len(widths)
    batches: list[Batch] = []
    waiting: list[int] = []  # rows that do not fill a batch
    position = 0
    for width, wider in zip(widths, (*widths[1:], math.inf), strict=True):
        while position < len(order) and lengths[order[position]] <= width:
            waiting.append(order[position])
            position += 1
        full = max(batch_tokens // width, 1)
        any_full = len(waiting) >= full
        while len(waiting) >= full:
            batches.append(Batch(tuple(waiting[:full]), full, width))
            waiting = waiting[full:]
        if not waiting:
            continue
        # The rest is a batch of a new shape, or a batch of a known shape with empty rows, or waits for the next width.
        own = _rounded_up(len(waiting), full)
        new_shape = any_full and own < full
        costs = {
            full: (full - len(waiting)) * width if any_full else math.inf,
            own: (own - len(waiting)) * width + (batch_tokens * COMPILATION if new_shape else 0),
            0: len(waiting) * (wider - width),
        }
        if new_shape and extra == 0:
            costs[own] = math.inf
        size = min(costs, key=costs.__getitem__)
        if size:
            extra -= new_shape and size == own
            batches.append(Batch(tuple(waiting), size, width))
            waiting = []
    return batches[::-1]


def _rounded_up(rows: int, full: int) -> int:
    """Up to a multiple of a quarter of a full batch, or, below a quarter, to a power of two: few shapes."""
    quarter = max(full // 4, 1)
    if rows <= quarter:
        return min(2 ** math.ceil(math.log2(rows)), quarter)
    return min(-(-rows // quarter) * quarter, full)


def ladder(max_width: int) -> list[int]:
    """All possible widths: multiples of 4, in steps that grow with the width, and `max_width` itself."""
    widths, width = [], 0
    while width < max_width:
        octave = 2 ** math.floor(math.log2(max(width, 1)))
        width += max(octave // _STEPS, _SMALLEST)
        widths.append(min(width, max_width))
    return widths


def best_widths(lengths: Sequence[int], max_width: int, *, most: int, price: float) -> list[int]:
    """The widths of the ladder that minimise padding, in ascending order; the last one holds the longest row.

    A dynamic programme over the rungs.

    Args:
        lengths: The tokens of each row, in ascending order.
        max_width: The end of the ladder.
        most: The maximum number of widths.
        price: The tokens of padding that a further width must save.
    """
    rungs = [rung for rung in ladder(max_width) if rung < lengths[-1]]
    rungs.append(next(rung for rung in ladder(max_width) if rung >= lengths[-1]))
    below = np.searchsorted(np.asarray(lengths), rungs, side="right")  # rows that fit into each rung
    count = len(rungs)
    best = np.full((most + 1, count), np.inf)
    chosen = np.full((most + 1, count), -1)
    for last in range(count):
        best[1, last] = below[last] * rungs[last]
    for used in range(2, most + 1):
        for last in range(used - 1, count):
            costs = best[used - 1, :last] + (below[last] - below[:last]) * rungs[last]
            chosen[used, last] = int(np.argmin(costs))
            best[used, last] = costs[chosen[used, last]]
    total = best[:, -1] + price * np.arange(most + 1)
    used, last = int(np.argmin(total)), count - 1
    widths = []
    while last >= 0:
        widths.append(rungs[last])
        last, used = int(chosen[used, last]), used - 1
    return widths[::-1]
