"""Fine-tune for summaries: from pairs of texts to a folder that bart_eqx and transformers load.

    PYTHONPATH=. python -m examples.finetune_summarization run            # numbers: 1,000 steps at most
    PYTHONPATH=. python -m examples.finetune_summarization run pairs.csv  # or .jsonl, with `text` and `summary`

The texts that are made here are lists of numbers, "17 402 9"; the summary of one is its largest number in words.
`bart-eqx train seq2seq` is the same with all options.
"""

import functools
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import bart_eqx
from bart_eqx.text import TextGenerator, Tokenizer, rouge
from bart_eqx.training import (
    Recipe,
    Training,
    batches,
    fairseq_label_smoothing,
    make_train_step,
    read_records,
    seq2seq_examples,
    seq2seq_loss,
    train,
)


Pair = Mapping[str, Any]
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
)
UNITS = (UNITS + "eighteen nineteen").split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """0 to 999, as the demo checkpoint spells them."""
    if number >= 100:
        rest = f" and {in_words(number % 100)}" if number % 100 else ""
        return f"{UNITS[number // 100]} hundred{rest}"
    unit = f"-{UNITS[number % 10]}" if number % 10 else ""
    return UNITS[number] if number < 20 else f"{TENS[number // 10]}{unit}"


def made_pairs(count: int, seed: int) -> list[Pair]:
    """Lists of two to five numbers, and the largest of each in words."""
    rng = random.Random(seed)
    lists = [[rng.randrange(1000) for _ in range(rng.randint(2, 5))] for _ in range(count)]
    return [{"text": " ".join(map(str, numbers)), "summary": in_words(max(numbers))} for numbers in lists]


def finetune(
    folder: Path, pairs: Sequence[Pair], held_out: Sequence[Pair], *, source: str = "demo", steps: int = 1000
) -> Training:
    """Train on `pairs`. The model with the best ROUGE-L on `held_out` is in `folder/model`."""
    tokenizer = Tokenizer.from_pretrained(source)
    model = bart_eqx.from_pretrained(source, bart_eqx.BartForConditionalGeneration)
    recipe = Recipe(1e-3, warmup_steps=steps // 20, total_steps=steps, weight_decay=0.01, clip_norm=1.0)
    token_loss = functools.partial(fairseq_label_smoothing, epsilon=0.1)
    loss = functools.partial(seq2seq_loss, token_loss=token_loss)
    step, state = make_train_step(model, loss, recipe.optimizer(), key=jax.random.key(0))
    longest = model.config.max_position_embeddings
    examples = seq2seq_examples(pairs, tokenizer, max_source_length=longest, max_target_length=min(longest, 128))
    data = batches(examples, batch_tokens=1024, pad_token_id=tokenizer.pad_token_id, seed=0, max_shapes=2)

    def scores(model: bart_eqx.BartForConditionalGeneration) -> dict[str, float]:
        written = TextGenerator(model, tokenizer)([pair["text"] for pair in held_out])
        result = rouge([each.generated_text for each in written], [pair["summary"] for pair in held_out])
        return {"rouge1": result.rouge1.fmeasure.mean, "rougeL": result.rougeL.fmeasure.mean}

    save = lambda model, folder: TextGenerator(model, tokenizer).save_pretrained(folder)
    return train(
        step, state, data, folder, total_steps=steps, save_every=100, evaluate=scores, evaluate_every=100,
        score="rougeL", patience=5, save=save, on_record=print,
    )  # fmt: skip


def main(folder: str, file: str | None = None) -> None:
    pairs = made_pairs(8000, seed=0) if file is None else list(read_records(file))
    finetune(Path(folder), pairs[200:], pairs[:200])
    generator = TextGenerator.from_pretrained(Path(folder) / "model")
    for pair in pairs[:5]:
        print(pair["text"], "→", generator(pair["text"]).generated_text)


if __name__ == "__main__":
    main(*sys.argv[1:])
