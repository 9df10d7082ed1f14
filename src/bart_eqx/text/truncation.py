"""Which tokens of a text, or of a pair, are dropped if they do not fit."""

from collections.abc import Sequence
from typing import Literal

from .checks import subject


Truncation = Literal["longest_first", "only_first", "only_second"]


def kept_tokens(lengths: Sequence[int], room: int, truncation: Truncation | bool, texts: Sequence[str]) -> list[int]:
    """The number of tokens that are kept of each text.

    Args:
        lengths: The tokens of a text, or of both texts of a pair.
        room: The maximum number of tokens together.
        truncation: As for [`Tokenizer`][bart_eqx.text.Tokenizer].
        texts: The texts, for error messages.

    Raises:
        ValueError: if there are more tokens, and `truncation` is `False`, or cuts the wrong text.
    """
    excess = sum(lengths) - room
    if excess <= 0:
        return list(lengths)
    if truncation is False:
        raise ValueError(
            f"{subject(*texts)} has {excess} tokens more than fit. Split it, give a larger `max_length`, or "
            "have its end dropped with `truncation`."
        )
    alone = len(lengths) == 1
    if alone and truncation == "only_second":
        raise ValueError('`truncation="only_second"` is for pairs.')
    if alone or truncation == "only_first":
        drop = (excess, 0)
    elif truncation == "only_second":
        drop = (0, excess)
    else:  # of the longer text until both are equally long, then of both in turn
        first, second = lengths
        difference = min(abs(first - second), excess)
        half = (excess - difference) // 2
        rest = excess - difference - half
        drop = (difference + half, rest) if first > second else (half, difference + rest)
    kept = [length - dropped for length, dropped in zip(lengths, drop, strict=False)]
    if min(kept) < 0:
        name = "first" if kept[0] < 0 else "second"
        raise ValueError(
            f"{subject(*texts)} does not fit even without its {name} text, which `truncation={truncation!r}` cuts."
        )
    return kept
