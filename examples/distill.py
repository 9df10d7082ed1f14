"""Distil a model: a student with half the decoder layers learns what its teacher writes (arXiv:2010.13002).

    PYTHONPATH=. python -m examples.distill run                                # the demo: 1,000 steps at most
    PYTHONPATH=. python -m examples.distill run bart-large-cnn articles.jsonl  # with a `text` in each line

The teacher writes the targets. The student starts as the teacher with fewer layers, and learns the teacher's
distribution and hidden states beside these targets.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

import bart_eqx
from bart_eqx.text import TextGenerator, Tokenizer, accuracy
from bart_eqx.training import (
    Distillation,
    Recipe,
    Training,
    batches,
    distil_whisper_layers,
    make_train_step,
    read_records,
    seq2seq_examples,
    shrink,
    train,
)


def distill(
    folder: Path, texts: Sequence[str], held_out: Sequence[str], *, source: str = "demo", steps: int = 1000
) -> Training:
    """Train a student on `texts`. The one that writes most like its teacher on `held_out` is in `folder/model`."""
    tokenizer = Tokenizer.from_pretrained(source)
    teacher = bart_eqx.from_pretrained(source, bart_eqx.BartForConditionalGeneration)
    write = lambda model, texts: [result.generated_text for result in TextGenerator(model, tokenizer)(texts)]
    pairs = [{"text": text, "summary": written} for text, written in zip(texts, write(teacher, texts), strict=True)]
    wanted = write(teacher, held_out)

    layers = distil_whisper_layers(teacher.config.decoder_layers, max(teacher.config.decoder_layers // 2, 1))
    student = shrink(teacher, decoder_layers=layers)
    recipe = Recipe(1e-3, warmup_steps=steps // 20, total_steps=steps, weight_decay=0.01, clip_norm=1.0)
    loss = Distillation(teacher, decoder_layers=layers)
    step, state = make_train_step(student, loss, recipe.optimizer(), key=jax.random.key(0))
    longest = teacher.config.max_position_embeddings
    examples = seq2seq_examples(pairs, tokenizer, max_source_length=longest, max_target_length=min(longest, 128))
    data = batches(examples, batch_tokens=1024, pad_token_id=tokenizer.pad_token_id, seed=0, max_shapes=2)

    def agreement(model: bart_eqx.BartForConditionalGeneration) -> dict[str, float]:
        return {"agreement": accuracy(write(model, held_out), wanted).accuracy.mean}

    save = lambda model, folder: TextGenerator(model, tokenizer).save_pretrained(folder)
    return train(
        step, state, data, folder, total_steps=steps, save_every=100, evaluate=agreement, evaluate_every=100,
        score="agreement", patience=5, save=save, on_record=print,
    )  # fmt: skip


def main(folder: str, source: str = "demo", file: str | None = None) -> None:
    rng = random.Random(0)
    made = [str(rng.randrange(10 ** rng.randint(1, 6))) for _ in range(4000)]
    texts = made if file is None else [record["text"] for record in read_records(file)]
    distill(Path(folder), texts[200:], texts[:200], source=source)
    print(TextGenerator.from_pretrained(Path(folder) / "model")(texts[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
