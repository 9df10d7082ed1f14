"""The engine under every task: tokenise, batch by length, run, and return the results in the order of the texts."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int32

from .batches import plan_batches
from .checks import subject
from .progress import progress_of_rows
from .tokenizer import Tokenizer
from .tokens import Tokens, pad
from .truncation import Truncation


logger = logging.getLogger("bart_eqx.text")
Result = TypeVar("Result")
RunBatch = Callable[[Int32[np.ndarray, "rows src"], Int32[np.ndarray, "rows src"]], Sequence[Result]]


@dataclasses.dataclass(frozen=True)
class Engine:
    """Runs a function of token ids over many texts.

    A result depends on its own text alone: not on its order, on the other texts, or on the size of a batch.

    Args:
        tokenizer: The tokenizer, for the model's vocabulary.
        max_length: The maximum number of tokens in a row: the positions of the model.
        batch_tokens: The maximum number of tokens in a batch, padding included. Memory grows with it.

    Raises:
        ValueError: if `batch_tokens` is less than 1.
    """

    tokenizer: Tokenizer
    max_length: int
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"`batch_tokens` must be at least 1. Got {self.batch_tokens}.")

    def tokenize(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        truncation: Truncation | bool = "longest_first",
        **options: Any,
    ) -> list[Tokens]:
        """Tokenise for the model. Tokens that do not fit are dropped, and counted in a warning.

        Raises:
            ValueError: as `Tokenizer.tokenize` does; with `truncation=False` if a text does not fit.
        """
        if truncation is False:
            rows = self.tokenizer.tokenize(texts, pairs, **options)
            for row, *given in zip(rows, texts, *([] if pairs is None else [pairs]), strict=True):
                if len(row) > self.max_length:
                    raise ValueError(
                        f"{subject(*given)} has {len(row)} tokens, and the model {self.max_length} positions: split it."
                    )
            return rows
        rows = self.tokenizer.tokenize(texts, pairs, max_length=self.max_length, truncation=truncation, **options)
        if dropped := [row.truncated for row in rows if row.truncated]:
            logger.warning(
                "%d of %d texts have more than the model's %d tokens: %d tokens were dropped. `truncation=False` makes "
                "it an error.",
                *(len(dropped), len(rows), self.max_length, sum(dropped)),
            )
        return rows

    def map(self, run_batch: RunBatch[Result], rows: Sequence[Tokens], *, label: str) -> list[Result]:
        """The result of each row.

        Args:
            run_batch: A function `(input_ids, attention_mask)` of int32 `[rows, src]` that returns one result for each
                row. It is called with at most `MAX_SHAPES` shapes (`batches.py`), each of which it may compile. A batch
                may be filled up with copies of its first row.
            rows: The texts.
            label: The label of the progress bar.
        """

        def run(indices: Sequence[int], width: int) -> Sequence[Result]:
            return run_batch(*self.pad([rows[index] for index in indices], width))

        return self.map_indices(run, [len(row) for row in rows], max_width=self.max_length, label=label)

    def map_indices(
        self,
        run: Callable[[Sequence[int], int], Sequence[Result]],
        lengths: Sequence[int],
        *,
        max_width: int,
        label: str,
    ) -> list[Result]:
        """As `map`, for rows that are more than one text: `run(indices, width)` makes the arrays itself."""
        results: list[Any] = [None] * len(lengths)
        with progress_of_rows(label, len(lengths)) as done:
            for batch in plan_batches(lengths, batch_tokens=self.batch_tokens, max_width=max_width):
                copies = batch.rows[:1] * (batch.size - len(batch.rows))
                for index, output in zip(batch.rows, run(batch.rows + copies, batch.width), strict=False):
                    results[index] = output
                done(len(batch.rows))
        return results

    def pad(self, rows: Sequence[Tokens], width: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their mask, int32 `[rows, width]`."""
        return pad(rows, self.tokenizer.pad_token_id, width)
