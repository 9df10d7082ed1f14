"""Models and inputs on which the tasks are compared with transformers' pipelines; imports nothing of either."""

import random


TEXTS = [
    "UN Chief Says There Is No way to talk about war in Syria, after five years of it.",
    "The Zürich café isn't open on Mondays; “we'll see”, they said. 😀",
    "A package for 2026: it reads files, writes files, and does $5.00 worth of work -- or 50% of that.",
    "Hello world",
    "x",
    "In 1849 the council of the town decided to build a bridge over the river. It was never finished, for the money "
    "ran out in the following year, and the stones were used for the school.",
]
LABELS = ["politics", "food", "computer science", "history"]
QUESTIONS = ["Who says so?", "What isn't open?", "What does it read?", "Hello?", "Why?", "When was it decided?"]
# Longer than the 64 positions of the tiny models: the windows of a question overlap.
LONG_CONTEXT = " ".join(TEXTS[:3] + TEXTS[5:])


def masked(seed: int = 0) -> list[tuple[str, int]]:
    """Texts with one or two masks in place of words, and how many."""
    rng = random.Random(seed)
    made = []
    for text in TEXTS[:4] + TEXTS[5:]:
        for count in (1, 2):
            words = text.split(" ")
            for place in rng.sample(range(len(words)), count):
                words[place] = "<mask>"
            made.append((" ".join(words), words.count("<mask>")))
    return made


PAIRS = [(TEXTS[0], "There is a war."), (TEXTS[1], ""), (TEXTS[4], TEXTS[3])]
SUMMARIES = [dict(num_beams=1, max_length=14), dict(num_beams=4, max_length=20, min_length=8, length_penalty=2.0)]
SUMMARIES += [dict(num_beams=4, max_length=16, no_repeat_ngram_size=3, early_stopping=True)]
PREFIX = " "
ANSWERS = {
    "one": dict(),
    "several": dict(top_k=4, max_answer_len=5),
    "tokens": dict(align_to_words=False, max_seq_len=40, doc_stride=7),
    "none": dict(handle_impossible_answer=True, top_k=3, max_seq_len=50),
}
