"""Texts for comparing tokenizers, the same in every environment: `cases(5000)`, and what pure Python makes of one.

This file imports neither bart_eqx nor transformers, so that any environment can run it.
"""

import dataclasses
import random
import re
from typing import Any


# ruff: noqa: RUF001
WORDS = (
    "the of UN Chief Says There Is No in Syria Hello world naïve café Zürich I'm we'll THEY'VE don't it's 'tis "
    "rock'n'roll e-mail http://example.org/a?b=c&d=%20 user@host 3.14159 1,000,000 2026-11-27 $5.00 50% C++ foo_bar "
    "#tag ... -- — “quoted” "
    "Straße ΑΒΓ Привет мир שלום مرحبا नमस्ते สวัสดี 你好 世界 こんにちは 안녕하세요 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ½ ² Ⅷ ٣ ǅ ß İ ı"
).split(" ")
EMOJI = ["😀", "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏳️‍🌈", "1️⃣", "🤷🏿‍♀️"]
CONTROL = list("\x00\x01\x07\x08\x1b\x7f\x80\x85\xad\u200b\u200d\u202e\ufeff\ufffd")
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", *"\u00a0\u2003\u3000\u2028\x0b\x0c\x1c\x1f"]
SPECIAL = ["<mask>", "</s>", "<s>", "<pad>", "<unk>", "<MASK>", "< mask >", "<mask", "mask>", "<mask><mask>", "<|end|>"]
COMBINING = ["e\u0301", "a\u0308\u0323", "Z\u0351\u036b\u0343", "\u1112\u1161\u11ab", "Å", "A\u030a"]

# Python's `str.rstrip` takes these four for spaces, and so takes them from the text before `<mask>`. Unicode does not,
# nor do the `tokenizers` library and transformers 5. `test_separators_before_a_mask` has the difference; `cases` avoids
# it.
SEPARATORS = re.compile("[\x1c-\x1f]\\s*<mask>")


@dataclasses.dataclass(frozen=True)
class Case:
    text: str
    pair: str | None
    max_length: int | None
    split_special_tokens: bool


def _text(rng: random.Random, words: int) -> str:
    kinds = [WORDS] * 12 + [EMOJI, CONTROL, SPECIAL, SPECIAL, COMBINING]
    pieces = []
    for _ in range(words):
        choice = rng.random()
        if choice < 0.06:
            pieces.append("".join(chr(_scalar(rng)) for _ in range(rng.randint(1, 4))))
        else:
            pieces.append(rng.choice(rng.choice(kinds)))
        pieces.append(rng.choice(SPACES) if rng.random() < 0.12 else " " if rng.random() < 0.9 else "")
    return "".join(pieces)


def _scalar(rng: random.Random) -> int:
    """A code point of any plane that is not a surrogate."""
    while True:
        point = rng.choice([rng.randrange(0x250), rng.randrange(0x10000), rng.randrange(0x110000)])
        if not 0xD800 <= point < 0xE000:
            return point


def cases(count: int, seed: int = 0) -> list[Case]:
    """Every kind of text by hand first, then drawn ones: a third of them pairs, a quarter truncated."""
    rng = random.Random(seed)
    by_hand = ["", " ", "\n", "a", "<mask>", " <mask> ", "a<mask>b", "a  <mask>\n", "</s>", "\x00", "😀", "'s", " 's"]
    by_hand += EMOJI + CONTROL + SPACES + SPECIAL + COMBINING
    by_hand += ["a" * 5000, " " * 3000, "\n" * 999, "ab " * 4000, "é" * 2000]
    made = [Case(text, None, None, split) for text in by_hand for split in (True, False)]
    made += [Case(a, b, None, False) for a in ("", "a", "<mask>") for b in ("", "b c", " </s>")]
    while len(made) < count:
        words = rng.choice([1, 3, 10, 30, 100]) if rng.random() < 0.99 else 1500
        pair = _text(rng, rng.choice([0, 2, 8, 20])) if rng.random() < 1 / 3 else None
        max_length = rng.randint(4, 40) if rng.random() < 1 / 4 else None
        case = Case(_text(rng, rng.randint(0, words)), pair, max_length, rng.random() < 0.4)
        if not SEPARATORS.search(f"{case.text}|{case.pair}"):
            made.append(case)
    return made[:count]


def python_offsets(tokenizer: Any, text: str, split_special_tokens: bool) -> list[tuple[int, int]]:
    """The offsets of the tokens of transformers' pure-Python BartTokenizer, which has none itself.

    Its tokens are the bytes of the text in order. A token's offsets are those of the characters that its bytes belong
    to, without the spaces in front; the spaces before `<mask>` are in no token.
    """
    character_of_byte = [index for index, c in enumerate(text) for _ in c.encode()]
    added = {} if split_special_tokens else tokenizer.get_added_vocab()
    offsets, byte = [], 0
    content = text.encode()
    for token in tokenizer.tokenize(text, split_special_tokens=split_special_tokens):
        if token in added:
            byte = content.index(token.encode(), byte)  # only `<mask>` has spaces before it
            size, spaces = len(token.encode()), 0
        else:
            size = len(token)
            spaces = size - len(token.lstrip("Ġ"))
        start, stop = character_of_byte[byte], character_of_byte[byte + size - 1] + 1
        offsets.append((min(start + spaces, stop), stop))
        byte += size
    return offsets


def python_encoding(tokenizer: Any, case: Case) -> tuple[list[int], list[tuple[int, int]], int]:
    """Ids, offsets and the number of dropped tokens, by transformers' pure-Python BartTokenizer."""
    texts = [case.text] if case.pair is None else [case.text, case.pair]
    options = dict(split_special_tokens=case.split_special_tokens)
    whole = tokenizer(*texts, **options, verbose=False)
    ids = whole.input_ids
    if case.max_length is not None:
        ids = tokenizer(*texts, **options, truncation=True, max_length=case.max_length).input_ids
    sides = [python_offsets(tokenizer, text, case.split_special_tokens) for text in texts]
    none = (0, 0)
    if case.max_length is not None:
        # Where the special tokens are says how much of each text is left: there may be others inside, in the text.
        kept = _kept([len(side) for side in sides], len(ids) - 2 * len(sides))
        sides = [side[:length] for side, length in zip(sides, kept, strict=True)]
    offsets = [none, *sides[0], none, *([none, *sides[1], none] if len(sides) == 2 else [])]
    return ids, offsets, len(whole.input_ids) - len(ids)


def _kept(lengths: list[int], room: int) -> list[int]:
    """Token by token, of the longer text."""
    lengths = list(lengths)
    while sum(lengths) > room:
        lengths[0 if len(lengths) == 1 or lengths[0] > lengths[1] else 1] -= 1
    return lengths
