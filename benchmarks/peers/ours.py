"""bart_eqx, as users call it: `from_pretrained`, `generate`, `filter_jit`."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bart_eqx


def exactly(new: int) -> dict[str, Any]:
    """Options with which exactly `new` tokens are generated, none of them forced."""
    return dict(max_length=new + 1, min_length=new + 1, forced_bos_token_id=None, forced_eos_token_id=None)


class Peer:
    def __init__(self, folder: Path, variant: str):
        if variant == "highest":  # float32 products without TF32, the default of accelerators
            jax.config.update("jax_default_matmul_precision", "highest")
        dtype = jnp.bfloat16 if variant == "bfloat16" else jnp.float32
        self.model: Any = bart_eqx.from_pretrained(
            folder / "pytorch", bart_eqx.BartForConditionalGeneration, dtype=dtype
        )
        if variant == "int8":
            self.model = bart_eqx.quantize(self.model)
        self.versions = {"jax": jax.__version__, "equinox": eqx.__version__, "device": jax.devices()[0].device_kind}

    def peak_bytes(self) -> int | None:
        """The peak of allocated device memory since the process started. JAX cannot reset it."""
        statistics = jax.devices()[0].memory_stats()
        return None if statistics is None else statistics["peak_bytes_in_use"]

    def encode(self, ids: np.ndarray, **_: Any):
        encode = eqx.filter_jit(lambda model, ids: model.encode(ids).last_hidden_state)
        return lambda: jax.block_until_ready(encode(self.model, ids))

    def forward(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        forward = eqx.filter_jit(lambda model, ids, targets: model(ids, decoder_input_ids=targets).logits)
        return lambda: jax.block_until_ready(forward(self.model, ids, targets))

    def steps(self, ids: np.ndarray, new: int, **_: Any):
        """A user's decoding loop over an encoded source."""
        encoded = eqx.filter_jit(lambda model, ids: model.encode(ids))(self.model, ids[0])
        begin = eqx.filter_jit(lambda model, encoded: model.init_cache(encoded, max_length=new))

        @eqx.filter_jit(donate="all-except-first")
        def step(model: Any, tokens: jax.Array, cache: Any):
            out, cache = model.decode(tokens, cache)
            return jnp.argmax(out.logits, axis=-1), cache

        def run() -> np.ndarray:
            cache, tokens, written = begin(self.model, encoded), jnp.array([2]), []
            for _ in range(new):
                tokens, cache = step(self.model, tokens, cache)
                written.append(np.asarray(tokens))
            return np.stack(written, axis=1)

        return run

    def generate(self, ids: np.ndarray, beams: int, new: int, sample: bool, room: int | None = None, **_: Any):
        """With `room`, calls for other numbers of tokens up to it run the same compiled loop."""
        options: dict[str, Any] = exactly(new) | ({} if room is None else dict(pad_to_multiple_of=room + 1))
        options |= dict(do_sample=True, top_k=50, key=jax.random.key(0)) if sample else {}
        return lambda: np.asarray(bart_eqx.generate(self.model, ids, num_beams=beams, **options).sequences)

    def write(self, tokenizer: Path, beams: int, new: int):
        """Texts from texts."""
        from bart_eqx.text import TextGenerator, Tokenizer  # not in the environment of `make accelerator`

        options: dict[str, Any] = dict(num_beams=beams, **exactly(new))
        task = TextGenerator(self.model, Tokenizer.from_pretrained(tokenizer), **options)
        return lambda texts: [result.generated_text for result in task(texts)]

    def generate_in_room(self, ids: np.ndarray, new: int, room: int, **_: Any):
        """Stops after `new` tokens and EOS, although `room` tokens are allowed."""
        options: dict[str, Any] = exactly(new) | dict(max_length=room + 1, logits_processor=(End(new),))
        return lambda: np.asarray(bart_eqx.generate(self.model, ids, num_beams=1, **options).sequences)

    def copy(self, ids: np.ndarray, new: int, drafts: int | None, free: bool = False, **_: Any):
        """Generates its source, or tokens that are not in it: the best and the worst case of prompt lookup."""
        words = np.random.default_rng(1).integers(4, 50000, (1, new + 1)) if free else ids[:, : new + 1]
        options: dict[str, Any] = exactly(new) | dict(
            prompt_lookup_num_tokens=drafts, logits_processor=(Follow(words),)
        )
        return lambda: np.asarray(bart_eqx.generate(self.model, ids, num_beams=1, **options).sequences)

    def train(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        from bart_eqx.training import cross_entropy

        @eqx.filter_jit(donate="all")
        def step(model: Any, ids: jax.Array, targets: jax.Array):
            @eqx.filter_value_and_grad
            def loss(model: Any) -> jax.Array:
                states = model.model(ids, decoder_input_ids=targets).last_hidden_state
                return cross_entropy(model.lm_logits, states, targets)

            value, gradients = loss(model)
            return value, eqx.apply_updates(model, jax.tree.map(lambda g: -1e-4 * g, gradients))

        def run() -> None:
            value, self.model = step(self.model, jnp.asarray(ids), jnp.asarray(targets))
            jax.block_until_ready(value)

        return run

    def fine_tune(self, ids: np.ndarray, targets: np.ndarray, compute: str, recompute: bool = False, **_: Any):
        import optax

        from bart_eqx.training import decay_mask, make_train_step, rematerialise, seq2seq_loss

        optimizer = optax.adamw(1e-5, weight_decay=0.01, mask=decay_mask)
        view = rematerialise if recompute else lambda model: model
        step, state = make_train_step(
            self.model, seq2seq_loss, optimizer, key=jax.random.key(0), compute_dtype=jnp.dtype(compute), view=view
        )
        self.model = None
        batch = {"input_ids": ids[None], "labels": targets[None]}

        def run() -> None:
            nonlocal state
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))

        return run


class End(eqx.Module):
    """Allows only EOS after `new` tokens."""

    new: int

    def __call__(self, logits: jax.Array, tokens: jax.Array, length: jax.Array) -> jax.Array:
        only_end = jnp.where(jnp.arange(logits.shape[-1]) == 2, logits, -jnp.inf)
        return jnp.where(length > self.new, only_end, logits)


class Follow(eqx.Module):
    """Allows only these tokens, in order."""

    words: jax.Array

    def __init__(self, words: np.ndarray):
        self.words = jnp.asarray(words)

    def __call__(self, logits: jax.Array, tokens: jax.Array, length: jax.Array) -> jax.Array:
        word = jax.lax.dynamic_index_in_dim(self.words, length, axis=1)
        return jnp.where(jnp.arange(logits.shape[-1]) == word[..., None], logits, -jnp.inf)
