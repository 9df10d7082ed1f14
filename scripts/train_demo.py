"""Train the demo checkpoint in the package: it spells a number in words, and copies one that is in words already.

    .venv-oracle/bin/python scripts/train_demo.py [--output FOLDER] [--steps N]

The model, the training-mode forward pass and the files are transformers' own (`FlaxBartForConditionalGeneration`), so
that `bart_eqx` converts a real Hugging Face Flax checkpoint and not one of its own making. Everything is seeded; it
takes about ten minutes on two CPU cores. Every number `n` with `n % 97 == 13` is held out of training; the last lines
printed are the shares of these that greedy search spells and copies exactly.
"""

import argparse
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from num2words import num2words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BartConfig, FlaxBartForConditionalGeneration
from transformers.models.bart.modeling_flax_bart import shift_tokens_right


SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # BART's ids 0, 1, 2, 3 and its mask
LIMIT = 1_000_000
LENGTH = 18  # <s>, at most fifteen tokens ("nine hundred and ninety-nine thousand ..."), </s>
SHARE_SPELT = 0.3  # the share of sources that are in words already, and are copied


def spell(number: int) -> str:
    return num2words(number).replace(",", "")


def is_held_out(number: Any) -> Any:
    return number % 97 == 13


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    """Numbers of one to six digits in equal shares: drawn uniformly, nearly all would have six."""
    digits = rng.integers(1, 7, size)
    low = np.where(digits == 1, 0, 10 ** (digits - 1))
    return low + (rng.random(size) * (10**digits - low)).astype(np.int64)


def make_tokenizer(rng: np.random.Generator) -> Tokenizer:
    """A byte-level BPE like BART's, except that each digit is a token: its place carries the meaning."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    numbers = draw(rng, 20_000).tolist()
    tokenizer.train_from_iterator([str(n) for n in range(10)] + [spell(n) for n in numbers], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str], length: int) -> np.ndarray:
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    longest = max(map(len, rows))
    if longest > length:
        raise ValueError(f"A text takes {longest} tokens, but the length is {length}.")
    return np.array([row + [1] * (length - len(row)) for row in rows], np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).parents[1]
    parser.add_argument("--output", type=pathlib.Path, default=here / "src/bart_eqx/demo")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    tokenizer = make_tokenizer(rng)
    config = BartConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=384,
        decoder_ffn_dim=384,
        max_position_embeddings=32,
        dropout=0.0,
        forced_bos_token_id=0,
    )
    model = FlaxBartForConditionalGeneration(config, seed=arguments.seed)
    print(f"{sum(x.size for x in jax.tree.leaves(model.params)):,} parameters, {config.vocab_size} tokens", flush=True)

    schedule = optax.warmup_cosine_decay_schedule(0.0, arguments.learning_rate, 200, arguments.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))

    def loss_fn(params, source, target):
        logits = model(
            source,
            attention_mask=(source != 1).astype(jnp.int32),
            decoder_input_ids=shift_tokens_right(target, 1, 2),
            params=params,
            train=True,
        ).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        return jnp.sum(losses * (target != 1)) / jnp.sum(target != 1)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, source, target):
        loss, gradients = jax.value_and_grad(loss_fn)(params, source, target)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state, start = model.params, optimiser.init(model.params), time.perf_counter()
    for index in range(arguments.steps):
        numbers = draw(rng, 2 * arguments.batch_size)
        numbers = numbers[~is_held_out(numbers)][: arguments.batch_size].tolist()
        words = [spell(n) for n in numbers]
        spelt = rng.random(len(numbers)) < SHARE_SPELT
        texts = [w if s else str(n) for n, w, s in zip(numbers, words, spelt, strict=True)]
        source = encode(tokenizer, texts, LENGTH)
        target = encode(tokenizer, words, LENGTH)
        params, state, loss = step(params, state, source, target)
        if index % 100 == 0 or index == arguments.steps - 1:
            print(f"step {index:5d}  loss {float(loss):.5f}  {time.perf_counter() - start:.0f} s", flush=True)

    model.params = params
    model.generation_config.max_length = 24
    model.save_pretrained(arguments.output)
    tokenizer.save(str(arguments.output / "tokenizer.json"))

    held_out = [n for n in range(LIMIT) if is_held_out(n)]
    sample = rng.permutation(held_out)[:2000].tolist()
    for task, write in (("spelt", str), ("copied", spell)):
        source = encode(tokenizer, [write(n) for n in sample], LENGTH)
        sequences = model.generate(source, attention_mask=(source != 1).astype(np.int32), max_length=24).sequences
        texts = tokenizer.decode_batch(np.asarray(sequences).tolist())
        right = sum(text == spell(n) for text, n in zip(texts, sample, strict=True))
        print(f"held-out numbers {task} exactly: {right} of {len(sample)} ({100 * right / len(sample):.2f} %)")


if __name__ == "__main__":
    main()
