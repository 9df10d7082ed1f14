"""Logits processors: what changes the scores of the next token.

A processor is any function, or PyTree, that is called as `processor(logits, tokens, length)` and returns new logits. It
must be jittable and pure:

- `logits`, float `[batch, beams, vocab]`: the scores of the next token; under beam search, log-probabilities.
- `tokens`, int32 `[batch, beams, buffer]`: each row's tokens in its first `length` slots. A slot without a token is -1:
  the empty ones after them, and the padding in front of a shorter prompt. -1 equals no token id.
- `length`, int32 `[]`: how many slots are in use, the same in every row. The next token goes into slot `length`.

Settings are arrays, hence traced: a new value does not recompile. Each processor here has the name and the arithmetic
of the one in transformers' `logits_process.py` (5.23), with which the tests compare them.
"""
