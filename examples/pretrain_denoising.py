"""Pre-train from random weights: texts become noise, and the model learns to restore them (arXiv:1910.13461).

    PYTHONPATH=. python -m examples.pretrain_denoising run            # numbers in words: 1,000 steps
    PYTHONPATH=. python -m examples.pretrain_denoising run texts.txt  # blank lines stand between documents

`bart-eqx train denoise` is the same with all options, for any model and tokenizer.
"""

import random
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

import bart_eqx
from bart_eqx.text import MaskFiller, Tokenizer
from bart_eqx.training import (
    Denoiser,
    DenoisingConfig,
    Recipe,
    Training,
    batches,
    denoising_examples,
    make_train_step,
    mean_loss,
    read_documents,
    seq2seq_loss,
    train,
)


CONFIG = bart_eqx.BartConfig(
    vocab_size=359,  # the demo's tokenizer: letters, digits, and the words of numbers
    d_model=64,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=256,
    decoder_ffn_dim=256,
    max_position_embeddings=64,
)


def made_documents(count: int, seed: int) -> list[str]:
    """Counting, in words: "three. four. five."."""
    words = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
    rng = random.Random(seed)
    starts = [rng.randrange(len(words)) for _ in range(count)]
    return [" ".join(f"{words[(start + i) % len(words)]}." for i in range(rng.randint(4, 12))) for start in starts]


def pretrain(
    folder: Path, documents: Iterable[str], *, config: bart_eqx.BartConfig = CONFIG, steps: int = 1000
) -> Training:
    """Train on documents, but for a tenth of their blocks. The model with the lowest loss on these is in
    `folder/model`."""
    tokenizer = Tokenizer.from_pretrained("demo")
    (full_stop,) = tokenizer.tokenize(["."])[0].parts[0].ids
    assert tokenizer.mask_token_id is not None
    noise = DenoisingConfig(
        vocab_size=config.vocab_size, mask_token_id=tokenizer.mask_token_id, full_stop_token_id=full_stop
    )
    denoiser = Denoiser(noise, word_starts=tokenizer.word_starts())

    def noised(example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"input_ids": denoiser.noise(example["labels"], rng), "labels": example["labels"]}

    room = 8  # tokens that noise may add
    blocks = denoising_examples(documents, tokenizer, max_length=config.max_position_embeddings - room)
    batched = lambda blocks, epochs=None: batches(
        blocks, batch_tokens=2048, pad_token_id=tokenizer.pad_token_id, seed=0, max_shapes=1, transform=noised,
        room=room, epochs=epochs,
    )  # fmt: skip
    held_out = batched(blocks[::10], epochs=1)

    model = bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0))
    recipe = Recipe(1e-3, warmup_steps=steps // 10, total_steps=steps, clip_norm=1.0)
    step, state = make_train_step(model, seq2seq_loss, recipe.optimizer(), key=jax.random.key(1))
    evaluate = lambda model: {"validation_loss": mean_loss(model, seq2seq_loss, held_out)}
    save = lambda model, folder: MaskFiller(model, tokenizer).save_pretrained(folder)
    learned = [block for index, block in enumerate(blocks) if index % 10]
    return train(
        step, state, batched(learned), folder, total_steps=steps, save_every=200, evaluate=evaluate,
        evaluate_every=200, score="validation_loss", greater_is_better=False, save=save, on_record=print,
    )  # fmt: skip


def main(folder: str, file: str | None = None) -> None:
    pretrain(Path(folder), made_documents(4000, seed=0) if file is None else read_documents(file))
    filler = MaskFiller.from_pretrained(Path(folder) / "model")
    print(filler("three. four.<mask>. six. seven.", top_k=3))


if __name__ == "__main__":
    main(*sys.argv[1:])
