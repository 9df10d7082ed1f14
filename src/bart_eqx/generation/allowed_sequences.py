"""`prefix_allowed_tokens`: the sets of a call, and whether each of their sequences can be generated.

A search that cannot generate a sequence leaves the set, or returns a row that means nothing. So `check_reachable` looks
for it before the search, in every setting that bars or forces tokens. It cannot see traced values or the effect of
custom processors; after the search, `PrefixTrie.contains` says which rows are in the set.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..generation_config import GenerationConfig
from ..model.checks import is_known
from ..typing import HostArray
from .host_inputs import Tokens


Sequences = Sequence[Sequence[int]]


def parse_sets(allowed: Any, rows: int, vocab_size: int) -> list[list[list[int]]]:
    """Sets of token sequences: one for all rows, or one for each row."""
    try:
        plain = [item.tolist() if isinstance(item, HostArray) else item for item in allowed]
        nested = not isinstance(plain[0][0], (int, np.integer))
        sets = [[[int(token) for token in sequence] for sequence in one] for one in (plain if nested else [plain])]
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise ValueError(
            "`prefix_allowed_tokens` is a list of token sequences, such as [[5, 6], [5, 7]], none of them empty, or a "
            f"list of such lists, one for each row. Got {allowed!r:.80}."
        ) from error
    if len(sets) not in (1, rows):
        raise ValueError(
            f"`prefix_allowed_tokens` has {len(sets)} sets of sequences for {rows} rows. Give one, or {rows}."
        )
    for sequences in sets:
        if not sequences or not all(sequences):
            raise ValueError("`prefix_allowed_tokens` needs at least one sequence, and no empty one.")
        if outside := [token for sequence in sequences for token in sequence if not 0 <= token < vocab_size]:
            raise ValueError(
                f"`prefix_allowed_tokens` has {_shown(outside)}, but the model's tokens are 0 to {vocab_size - 1}."
            )
    return sets


def with_end(sequence: Sequence[int], eos_token_ids: Sequence[int]) -> list[int]:
    """A sequence as it is generated: with the first of `eos_token_ids`, unless it ends in one of them."""
    return [*sequence, *([] if sequence[-1] in eos_token_ids else eos_token_ids[:1])]


def check_reachable(
    sets: Sequence[Sequences], config: GenerationConfig, prompt: Tokens, source: Tokens | None, max_length: int
) -> None:
    """Check that every sequence can be generated, for each row that may have it.

    Args:
        sets: One for all rows, or one for each.
        config: All settings of the call.
        prompt: The prompts. Where they are traced, only what does not depend on them is checked.
        source: The source's tokens, if there are any; read where `encoder_no_repeat_ngram_size` is on.
        max_length: Slots of a whole sequence, prompt included.

    Raises:
        ValueError: if a sequence cannot, or if beams must return more sequences than the set has.
    """
    prompt_length = prompt.ids.shape[-1]
    rows = math.prod(prompt.ids.shape[:-1])
    # Padding goes to the front of a prompt, whatever side it is on.
    prompts = [row and tuple(token for token in row if token >= 0) for row in _rows_of(prompt, rows)]
    sources = _rows_of(source if config.encoder_no_repeat_ngram_size > 0 else None, rows)
    which = [0] * rows if len(sets) == 1 else range(rows)
    checked: dict[Any, None] = dict.fromkeys(zip(which, prompts, sources, strict=True))
    for index, row_prompt, row_source in checked:
        bars = _Bars(config, prompt_length, max_length, row_prompt, row_source)
        of_row = "" if len(sets) == 1 else f" of row {index}"
        for sequence in sets[index]:
            if (reason := next(bars.reasons(sequence), None)) is not None:
                raise ValueError(
                    f"`prefix_allowed_tokens`{of_row} has {_shown(sequence)}, which cannot be generated: {reason}"
                )
    if config.num_beams == 1:
        return
    for index, sequences in enumerate(sets):
        count = len({tuple(with_end(sequence, config.eos_token_ids)) for sequence in sequences})
        most = config.num_beam_groups * min(count, config.num_beams // config.num_beam_groups)
        if config.num_return_sequences > most:
            where = "" if len(sets) == 1 else f" for row {index}"
            raise ValueError(
                f"Beam search returns different sequences, and `prefix_allowed_tokens` has {count}{where}: "
                f"num_return_sequences={config.num_return_sequences} must not be more than {most}. Lower it, or sample "
                "with `num_beams=1`, which may repeat a sequence."
            )


@dataclasses.dataclass(frozen=True)
class _Bars:
    """The settings that bar sequences in one row, as the processors in `processors/from_config.py` apply them."""

    config: GenerationConfig
    prompt_length: int
    max_length: int
    prompt: tuple[int, ...] | None
    """Its tokens without padding; `None` where they are traced."""
    source: tuple[int, ...] | None
    """The source's tokens, -1 at padding; `None` where they are traced or not needed."""

    def reasons(self, sequence: Sequence[int]) -> Iterator[str]:
        """Why the sequence cannot be generated, and what to do; nothing if it can."""
        c, ended = self.config, with_end(sequence, self.config.eos_token_ids)
        for place, token in enumerate(ended[:-1]):
            if token in c.eos_token_ids:
                if place == 0 and self.prompt is not None and token == self.prompt[0]:
                    yield f"it repeats the prompt's first token, {token}, which would end it. Leave that token out."
                yield f"eos_token_id={token} ends it at its token {place}. Leave that token out."
        needed = self.prompt_length + len(ended)
        if needed > self.max_length:
            yield (
                f"with the prompt and its end it has {needed} tokens, and max_length={self.max_length}. Raise "
                "`max_length` or `max_new_tokens`."
            )
        forced = self._forced(len(ended))
        for place, (name, tokens) in forced.items():
            if ended[place] not in tokens:
                yield (
                    f"`{name}` makes its token {place} {' or '.join(map(str, tokens))}. Write it so, or call with "
                    f"{name}=None."
                )
        yield from self._suppressed(ended)
        free = [place for place in range(len(ended)) if place not in forced]
        history = [*(self.prompt or ()), *ended]
        yield from self._barred_words(history, len(history) - len(ended), free)
        if len(ended) - 1 in free:
            yield from self._too_short(len(ended))
        yield from self._repeated_ngrams(history, len(history) - len(ended), free)
        if self.prompt is not None:
            for word in c.force_words_ids or ():
                alternatives: Any = [word] if isinstance(word[0], int) else word
                if not any(_occurs(ids, history) for ids in alternatives):
                    yield f"`force_words_ids` needs {_shown(word)} in it. Leave that word or the sequence out."

    def _forced(self, length: int) -> dict[int, tuple[str, Sequence[int]]]:
        """The places whose token a setting forces, whatever else bars it."""
        c, forced = self.config, {}
        if c.forced_bos_token_id is not None and self.prompt is not None and len(self.prompt) == 1:
            forced[0] = "forced_bos_token_id", (c.forced_bos_token_id,)
        if c.forced_eos_token_id is not None and self.prompt_length + length == self.max_length:
            eos = c.forced_eos_token_id
            forced[length - 1] = "forced_eos_token_id", (eos,) if isinstance(eos, int) else tuple(eos)
        return forced

    def _suppressed(self, ended: Sequence[int]) -> Iterator[str]:
        """By the settings that bar a forced token too."""
        c = self.config
        if barred := set(ended) & set(c.suppress_tokens or ()):
            yield f"`suppress_tokens` bars {min(barred)}. Leave it out there, or leave the sequence out."
        first = int(self.prompt_length == 1 and c.forced_bos_token_id is not None)
        if first < len(ended) and ended[first] in (c.begin_suppress_tokens or ()):
            yield f"`begin_suppress_tokens` bars {ended[first]} there. Leave it out there, or leave the sequence out."

    def _barred_words(self, history: Sequence[int], start: int, free: Sequence[int]) -> Iterator[str]:
        words = [("sequence_bias", word) for word, bias in self.config.sequence_biases.items() if bias == -math.inf]
        words += [("bad_words_ids", tuple(word)) for word in self.config.bad_words_ids or ()]
        by_last: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
        for name, word in words:
            if not (name == "bad_words_ids" and len(word) == 1 and word[0] in self.config.eos_token_ids):
                by_last.setdefault(word[-1], []).append((name, word))
        for place in free if by_last else ():
            for name, word in by_last.get(history[start + place], ()):
                if tuple(history[max(start + place + 1 - len(word), 0) : start + place + 1]) == word:
                    yield f"`{name}` bars {_shown(word)}. Leave it out there, or leave the sequence out."

    def _too_short(self, length: int) -> Iterator[str]:
        c = self.config
        if self.prompt_length + length - 1 < c.min_length:
            yield (
                f"without its end it has {self.prompt_length + length - 1} tokens with the prompt, and min_length="
                f"{c.min_length}. Lower `min_length`, which may have come with the checkpoint."
            )
        if length - 1 < (c.min_new_tokens or 0):
            yield (
                f"it has {length - 1} tokens before its end, and min_new_tokens={c.min_new_tokens}. Lower "
                "`min_new_tokens`, which may have come with the checkpoint."
            )

    def _repeated_ngrams(self, history: Sequence[int], start: int, free: Sequence[int]) -> Iterator[str]:
        c = self.config
        for name, text in (("no_repeat_ngram_size", history), ("encoder_no_repeat_ngram_size", self.source or ())):
            size = getattr(c, name)
            if size < 1:
                continue
            first: dict[tuple[int, ...], int] = {}
            for end in range(size, len(text) + 1):
                first.setdefault(tuple(text[end - size : end]), end)
            for place in free:
                end = start + place + 1
                ngram = tuple(history[max(end - size, 0) : end])
                found = first.get(ngram)
                if found is not None and (text is not history or found < end):
                    whose = "" if text is history else "the source's "
                    yield (
                        f"{name}={size} bars a repetition of {whose}{_shown(ngram)}. Set it to 0, or leave the "
                        "sequence out."
                    )


def _rows_of(tokens: Tokens | None, rows: int) -> list[tuple[int, ...] | None]:
    """The tokens of every row, -1 at padding; `None` where they are traced."""
    if tokens is None or not is_known(tokens.ids) or not (tokens.mask is None or is_known(tokens.mask)):
        return [None] * rows
    return [tuple(row) for row in np.asarray(tokens.marked()).reshape(rows, -1).tolist()]


def _occurs(word: Sequence[int], text: Sequence[int]) -> bool:
    return any(list(text[at : at + len(word)]) == list(word) for at in range(len(text)))


def _shown(tokens: Sequence[Any]) -> str:
    """The tokens, or the first of many."""
    return str(list(tokens)) if len(tokens) <= 12 else f"{list(tokens[:12])[:-1]}, ... ({len(tokens)} tokens)"
