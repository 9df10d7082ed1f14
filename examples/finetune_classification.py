"""Fine-tune a classifier: from labelled texts to a folder that bart_eqx and transformers load.

    PYTHONPATH=. python -m examples.finetune_classification run              # numbers: 300 steps at most
    PYTHONPATH=. python -m examples.finetune_classification run labelled.csv  # or .jsonl, with `text` and `label`

The texts that are made here are numbers; the label says what they can be divided by.
`bart-eqx train classify` is the same with all options, for pairs, for several labels of a text, and for numbers.
"""

import dataclasses
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import bart_eqx
from bart_eqx.text import Classifier, Tokenizer, accuracy
from bart_eqx.training import (
    Recipe,
    Training,
    batches,
    classification_examples,
    label_names,
    make_train_step,
    read_records,
    single_label_loss,
    train,
)


Labelled = Mapping[str, Any]


def made_texts(numbers: Sequence[int]) -> list[Labelled]:
    """Each number, and whether it is divisible by ten, by two, or by neither."""
    label = lambda number: "ten" if number % 10 == 0 else "two" if number % 2 == 0 else "neither"
    return [{"text": str(number), "label": label(number)} for number in numbers]


def finetune(
    folder: Path, texts: Sequence[Labelled], held_out: Sequence[Labelled], *, source: str = "demo", steps: int = 300
) -> Training:
    """Train on `texts`. The model with the best accuracy on `held_out` is in `folder/model`."""
    tokenizer = Tokenizer.from_pretrained(source)
    labels = label_names(texts)
    pretrained = bart_eqx.from_pretrained(source, bart_eqx.BartForConditionalGeneration)
    config = dataclasses.replace(pretrained.config, num_labels=len(labels), id2label=tuple(labels))
    model = bart_eqx.from_pretrained(  # the checkpoint has no head: it is drawn from `key`
        source, bart_eqx.BartForSequenceClassification, config=config, key=jax.random.key(1)
    )
    recipe = Recipe(5e-4, warmup_steps=steps // 20, total_steps=steps, weight_decay=0.01, clip_norm=1.0)
    step, state = make_train_step(model, single_label_loss, recipe.optimizer(), key=jax.random.key(0))
    examples = classification_examples(texts, tokenizer, labels=labels, max_length=config.max_position_embeddings)
    data = batches(examples, batch_tokens=512, pad_token_id=tokenizer.pad_token_id, seed=0, max_shapes=2)

    def scores(model: bart_eqx.BartForSequenceClassification) -> dict[str, float]:
        found = Classifier(model, tokenizer)([each["text"] for each in held_out], top_k=1)
        result = accuracy([labels[0].label for labels in found], [each["label"] for each in held_out])
        return {"accuracy": result.accuracy.mean}

    save = lambda model, folder: Classifier(model, tokenizer).save_pretrained(folder)
    return train(
        step, state, data, folder, total_steps=steps, save_every=50, evaluate=scores, evaluate_every=50,
        score="accuracy", patience=5, save=save, on_record=print,
    )  # fmt: skip


def main(folder: str, file: str | None = None) -> None:
    texts = made_texts(range(5000)[::7]) if file is None else list(read_records(file))
    random.Random(0).shuffle(texts)  # held-out texts are of all kinds, however the file is sorted
    finetune(Path(folder), texts[100:], texts[:100])
    classifier = Classifier.from_pretrained(Path(folder) / "model")
    for each in texts[:5]:
        print(each["text"], "→", classifier(each["text"], top_k=1)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
