"""Which values of a `GenerationConfig` are out of range, and which contradict each other."""

from collections.abc import Iterator, Mapping
from typing import Any


Fault = tuple[str, str]  # the setting, and the message


def faults(settings: Mapping[str, Any]) -> Iterator[Fault]:
    """The faults of settings that have the right types. Contradictions follow only where all are in range."""
    alone = list(_out_of_range(settings))
    yield from alone
    if not alone:
        yield from _contradictions(settings)


def sequence_biases(pairs: Any) -> dict[tuple[int, ...], float]:
    """`sequence_bias` as a mapping, from its pairs of token ids and a number."""
    return {tuple(sequence): float(bias) for sequence, bias in pairs or ()}


def _out_of_range(c: Mapping[str, Any]) -> Iterator[Fault]:
    def check(name: str, holds: bool, what: str) -> Iterator[Fault]:
        if not holds:
            yield name, f"`{name}` must be {what}. Got {c[name]!r}."

    def optional(name: str, holds: Any, what: str) -> Iterator[Fault]:
        yield from check(name, c[name] is None or holds(c[name]), what)

    yield from check("max_length", c["max_length"] >= 2, "at least 2, for it counts the start token")
    yield from optional("max_new_tokens", lambda n: n >= 1, "at least 1")
    for name in ("num_beams", "num_beam_groups", "num_return_sequences"):
        yield from check(name, c[name] >= 1, "at least 1")
    for name in ("min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "diversity_penalty"):
        yield from check(name, c[name] >= 0, "at least 0")
    yield from optional("min_new_tokens", lambda n: n >= 0, "at least 0")
    for name in ("temperature", "repetition_penalty", "encoder_repetition_penalty"):
        yield from check(name, c[name] > 0, "more than 0")
    yield from optional("top_k", lambda k: k >= 0, "at least 1, or 0 for no limit")
    yield from check("top_p", 0 <= c["top_p"] <= 1, "between 0 and 1")
    yield from optional("min_p", lambda p: 0 <= p <= 1, "between 0 and 1")
    yield from optional("top_h", lambda h: 0 < h <= 1, "more than 0 and at most 1")
    yield from check("typical_p", 0 < c["typical_p"] <= 1, "more than 0 and at most 1")
    for name in ("epsilon_cutoff", "eta_cutoff"):
        yield from check(name, 0 <= c[name] < 1, "at least 0 and less than 1")
    yield from check("early_stopping", c["early_stopping"] in (True, False, "never"), 'True, False or "never"')
    for name in ("prompt_lookup_num_tokens", "max_matching_ngram_size"):
        yield from optional(name, lambda n: n >= 1, "at least 1")
    yield from check("eos_token_id", c["eos_token_id"] != (), "a token, or several")
    yield from check("forced_eos_token_id", c["forced_eos_token_id"] != (), "a token, several, or None")
    yield from optional(
        "exponential_decay_length_penalty", lambda decay: len(decay) == 2, "a number of tokens and a factor"
    )
    yield from _faulty_words(c)


def _faulty_words(c: Mapping[str, Any]) -> Iterator[Fault]:
    """Empty lists of words, and words without a token."""
    words = {name: c[name] for name in ("bad_words_ids", "force_words_ids", "sequence_bias")}
    for name, entries in words.items():
        if entries == ():
            yield name, f"`{name}` must be given with at least one entry, or not at all. Got ()."
    pairs = words["sequence_bias"] or ()
    if not all(map(_is_bias, pairs)):
        yield "sequence_bias", f"`sequence_bias` must be pairs of token ids and a number. Got {pairs!r}."
        return
    words["sequence_bias"] = tuple(sequence_biases(pairs))
    words["force_words_ids"] = tuple(
        part for word in words["force_words_ids"] or () for part in (word, *(word if isinstance(word, tuple) else ()))
    )
    for name, entries in words.items():
        if not all(word or word == 0 for word in entries or ()):
            yield name, f"An entry of `{name}` has no token."


def _is_bias(pair: Any) -> bool:
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    return is_pair and isinstance(pair[0], tuple) and isinstance(pair[1], (int, float))


def _contradictions(c: Mapping[str, Any]) -> Iterator[Fault]:
    min_length, max_length, most = c["min_length"], c["max_length"], c["max_new_tokens"]
    if most is None and min_length > max_length:
        yield (
            "min_length",
            f"`min_length` must not be more than `max_length`. Got {min_length} and {max_length}.",
        )
    if most is not None and (c["min_new_tokens"] or 0) > most:
        yield (
            "min_new_tokens",
            f"`min_new_tokens` must not be more than `max_new_tokens`. Got {c['min_new_tokens']} and {most}.",
        )
    beams, groups, penalty = c["num_beams"], c["num_beam_groups"], c["diversity_penalty"]
    independent = c["do_sample"] and beams == 1
    if c["num_return_sequences"] > beams and not independent:
        yield (
            "num_return_sequences",
            f"`num_return_sequences` must not be more than `num_beams`, except when sampling without beams. Got "
            f"{c['num_return_sequences']} and {beams}.",
        )
    if beams % groups:
        yield "num_beam_groups", f"`num_beams` must be a multiple of `num_beam_groups`. Got {beams}, {groups}."
    if (groups > 1) != (penalty > 0):
        yield (
            "num_beam_groups" if groups > 1 else "diversity_penalty",
            f"`num_beam_groups` and `diversity_penalty` go together: groups without a penalty are all alike, and a "
            f"penalty is between groups. Got {groups} and {penalty}.",
        )
    if c["do_sample"] and groups > 1:
        yield "num_beam_groups", "`num_beam_groups` is for beam search; turn `do_sample` off."
    if c["force_words_ids"] is not None and (beams == 1 or c["do_sample"] or groups > 1):
        yield (
            "force_words_ids",
            "`force_words_ids` needs beam search: `num_beams` of 2 or more, no groups, no `do_sample`.",
        )
    if c["prompt_lookup_num_tokens"] is not None and (beams > 1 or c["do_sample"]):
        yield (
            "prompt_lookup_num_tokens",
            "`prompt_lookup_num_tokens` is for greedy search: `num_beams=1`, `do_sample=False`.",
        )
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = c[name]
        forced = (forced,) if isinstance(forced, int) else forced
        if forced and set(forced) <= set(c["suppress_tokens"] or ()):
            yield "suppress_tokens", f"`suppress_tokens` bars {sorted(forced)}, which `{name}` forces."
