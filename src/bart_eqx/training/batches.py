"""Batches for training, with Grain: shuffled, of few shapes, and resumable at any of them by one number."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..text.batches import best_widths
from .examples import Example
from .extras import library
from .losses import IGNORED


Transform = Callable[[dict[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Examples that are batched together, because they are of similar length.

    Args:
        examples: The index of each.
        rows: Of a micro-batch.
        widths: Tokens of each field that is not a scalar.
    """

    examples: tuple[int, ...]
    rows: int
    widths: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Examples in buckets: how many steps they make is known before a batch is made.

    Args:
        examples: Dicts of arrays with the same fields.
        buckets: At most `max_shapes`. Each example is in one of them.
        micro: Micro-batches of a step.
    """

    examples: Sequence[Example]
    buckets: list[Bucket]
    micro: int

    @property
    def steps(self) -> int:
        """The batches of an epoch."""
        return sum(-(-len(bucket.examples) // (bucket.rows * self.micro)) for bucket in self.buckets)

    def batches(
        self, *, pad_token_id: int, seed: int, epochs: int | None = None, transform: Transform | None = None
    ) -> Any:
        """The `grain.IterDataset` of the function `batches`, whose arguments these are."""
        grain = library("grain")
        parts = []
        for number, bucket in enumerate(self.buckets):
            (own_seed,) = np.random.SeedSequence([seed, number]).generate_state(1).tolist()
            part = grain.MapDataset.source([self.examples[index] for index in bucket.examples]).seed(own_seed).shuffle()
            if transform is not None:
                part = part.random_map(transform)
            stack = functools.partial(stack_rows, bucket=bucket, micro=self.micro, pad_token_id=pad_token_id)
            parts.append(part.batch(bucket.rows * self.micro, batch_fn=stack))
        dataset = grain.MapDataset.concatenate(parts).seed(seed).shuffle().repeat(epochs)
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))


def plan(
    examples: Sequence[Example],
    *,
    batch_tokens: int,
    micro: int = 1,
    max_shapes: int = 8,
    row_multiple: int = 1,
    room: int = 0,
) -> Plan:
    """Put examples into buckets, at most `max_shapes`. The arguments are those of `batches`.

    Examples are grouped by the length of their first field, and each group is halved by that of the second, where there
    is one. A bucket's last step in each epoch is filled up: half a step, on average, is what a further width must save.
    """
    if not examples:
        raise ValueError("`examples` must not be empty.")
    fields = [name for name, value in examples[0].items() if np.ndim(value)]
    lengths = {name: np.array([len(example[name]) for example in examples]) for name in fields}
    if "input_ids" in lengths:
        lengths["input_ids"] += room
    groups: list[tuple[np.ndarray, tuple[tuple[str, int], ...]]] = [(np.arange(len(examples)), ())]
    price = micro * batch_tokens / 2
    for position, name in enumerate(fields):
        most = max(1, max_shapes // 2 if position == 0 and len(fields) > 1 else max_shapes // len(groups))
        split = []
        for members, widths in groups:
            own = lengths[name][members]
            bounds = best_widths(np.sort(own).tolist(), int(own.max()), most=most, price=price)
            places = np.searchsorted(bounds, own)
            for place, width in enumerate(bounds):
                if np.any(places == place):
                    split.append((members[places == place], (*widths, (name, width))))
        groups = split
    buckets = []
    for members, widths in groups:
        rows = max(batch_tokens // max(width for _, width in widths) // row_multiple, 1) * row_multiple
        buckets.append(Bucket(tuple(members.tolist()), rows, widths))
    return Plan(examples, buckets, micro)


def steps_per_epoch(examples: Sequence[Example], **sizes: Any) -> int:
    """The batches of an epoch.

    Args:
        examples: As in `batches`.
        **sizes: `batch_tokens`, `micro`, `max_shapes`, `row_multiple` and `room` of `batches`.
    """
    return plan(examples, **sizes).steps


def batches(
    examples: Sequence[Example],
    *,
    batch_tokens: int,
    pad_token_id: int,
    seed: int,
    micro: int = 1,
    epochs: int | None = None,
    max_shapes: int = 8,
    transform: Transform | None = None,
    room: int = 0,
    row_multiple: int = 1,
) -> Any:
    """Shuffled batches: a `grain.IterDataset` of dicts of arrays `[micro, batch, ...]`.

    Each example is in one batch of each epoch. Examples of similar length are batched together, as fairseq does; each
    epoch has other batches, in another order. The state of an iterator, `get_state()`, is `{"next_index": n}`.

    Fields of several tokens are padded at the end, with -100 if they are called `labels`, else with `pad_token_id`.
    `attention_mask` goes with `input_ids`: 1 at its tokens, 0 at padding. Rows without an example, at the end of an
    epoch, are padding only; scalars are -100 there.

    Args:
        examples: Dicts of arrays with the same fields.
        batch_tokens: The most tokens of a micro-batch, padding included, in the longest of its fields: fairseq's
            `--max-tokens`. A longer example is a micro-batch of its own.
        pad_token_id: Of the tokenizer.
        seed: For the order, and for `transform`.
        micro: Micro-batches of a step.
        epochs: How often each example comes; `None`: without end.
        max_shapes: The most shapes of batches, each of which is a compiled program of the training step.
        transform: Makes an example of the example and a generator of random numbers, whenever it comes: for noise. The
            generator depends on the seed, the example's place and the epoch only.
        room: Tokens that `transform` may add to `input_ids`.
        row_multiple: The rows of a micro-batch are a multiple of this: the devices that share it.

    Raises:
        ImportError: if the extra `train` is not installed.
        ValueError: if there is no example, or if one became longer than its batch.
    """
    planned = plan(
        examples,
        batch_tokens=batch_tokens,
        micro=micro,
        max_shapes=max_shapes,
        row_multiple=row_multiple,
        room=room,
    )
    return planned.batches(pad_token_id=pad_token_id, seed=seed, epochs=epochs, transform=transform)


def stack_rows(examples: Sequence[Example], *, bucket: Bucket, micro: int, pad_token_id: int) -> dict[str, np.ndarray]:
    """Arrays `[micro, batch, ...]` of a bucket's shape, int32 or of the scalars' dtype, with padding."""
    widths, rows = dict(bucket.widths), bucket.rows * micro
    batch: dict[str, np.ndarray] = {}
    for name, value in examples[0].items():
        width = widths.get(name)
        fill = pad_token_id if name != "labels" and width is not None else IGNORED
        array = np.full((rows,) if width is None else (rows, width), fill, np.asarray(value).dtype)
        mask = np.zeros(array.shape, np.int32)
        for row, example in enumerate(examples):
            if width is None:
                array[row] = example[name]
                continue
            if len(example[name]) > width:
                raise ValueError(
                    f"An example became longer than its batch: {len(example[name])} tokens of {name}, and there is "
                    f"room for {width}. Give `room` for what `transform` adds."
                )
            array[row, : len(example[name])] = example[name]
            mask[row, : len(example[name])] = 1
        batch[name] = array.reshape(micro, bucket.rows, *array.shape[1:])
        if name == "input_ids":
            batch["attention_mask"] = mask.reshape(micro, bucket.rows, -1)
    return batch
