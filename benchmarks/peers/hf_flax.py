"""Hugging Face's Flax: transformers 4.57 and flax, with `jit`."""

from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import transformers


class Peer:
    def __init__(self, folder: Path, variant: str):
        self.model = transformers.FlaxBartForConditionalGeneration.from_pretrained(folder / "flax")
        self.versions = {"jax": jax.__version__, "flax": flax.__version__, "transformers": transformers.__version__}

    def encode(self, ids: np.ndarray, **_: Any):
        encode = jax.jit(lambda params, ids: self.model.encode(ids, params=params).last_hidden_state)
        return lambda: jax.block_until_ready(encode(self.model.params, ids))

    def forward(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        forward = jax.jit(lambda params, ids, y: self.model(ids, decoder_input_ids=y, params=params).logits)
        return lambda: jax.block_until_ready(forward(self.model.params, ids, targets))

    def steps(self, ids: np.ndarray, new: int, **_: Any):
        encoded = jax.jit(lambda params, ids: self.model.encode(ids, params=params))(self.model.params, ids)
        start = self.model.init_cache(1, new, encoded)

        @partial(jax.jit, donate_argnums=3)
        def step(params: Any, tokens: jax.Array, position: jax.Array, cache: Any, encoded: Any):
            options = dict(decoder_attention_mask=jnp.ones((1, new), int), decoder_position_ids=position[None, None])
            out = self.model.decode(tokens, encoded, past_key_values=cache, params=params, **options)
            return jnp.argmax(out.logits, axis=-1), out.past_key_values

        def run() -> np.ndarray:
            cache, tokens, written = jax.tree.map(jnp.copy, start), jnp.array([[2]]), []
            for position in range(new):
                tokens, cache = step(self.model.params, tokens, jnp.asarray(position), cache, encoded)
                written.append(np.asarray(tokens[0]))
            return np.stack(written, axis=1)

        return run

    def generate(self, ids: np.ndarray, beams: int, new: int, sample: bool, **_: Any):
        mask = (ids != 1).astype(np.int32)  # 1 is padding
        stop = dict(max_length=new + 1, min_length=new + 1, forced_bos_token_id=None, forced_eos_token_id=None)
        draw: dict[str, Any] = dict(do_sample=True, top_k=50, prng_key=jax.random.key(0)) if sample else {}
        write = jax.jit(
            lambda params, ids, mask: (
                self.model.generate(ids, attention_mask=mask, num_beams=beams, params=params, **stop, **draw).sequences
            )
        )
        return lambda: np.asarray(write(self.model.params, ids, mask))

    def train(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        @jax.jit
        def step(params: Any, ids: jax.Array, targets: jax.Array):
            def loss(params: Any) -> jax.Array:
                logits = self.model(ids, decoder_input_ids=targets, params=params, train=False).logits
                return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1))

            value, gradients = jax.value_and_grad(loss)(params)
            return value, jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradients)

        params = self.model.params

        def run() -> None:
            nonlocal params
            value, params = step(params, ids, targets)
            jax.block_until_ready(value)

        return run

    def fine_tune(self, ids: np.ndarray, targets: np.ndarray, compute: str, **_: Any):
        import optax

        model = type(self.model)(self.model.config, dtype=jnp.dtype(compute), _do_init=False)
        decays = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
        optimizer = optax.adamw(1e-5, weight_decay=0.01, mask=decays)
        decoder_ids = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=2)

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, opt_state: Any, key: jax.Array):
            key, own = jax.random.split(key)

            def loss(params: Any) -> jax.Array:
                out = model(ids, decoder_input_ids=decoder_ids, params=params, train=True, dropout_rng=own)
                log_probs = jax.nn.log_softmax(out.logits.astype(jnp.float32))
                return -jnp.mean(jnp.take_along_axis(log_probs, targets[..., None], axis=-1))

            value, gradients = jax.value_and_grad(loss)(params)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, key, value

        params = jax.tree.map(jnp.copy, self.model.params)
        del self.model
        opt_state, key = optimizer.init(params), jax.random.key(0)

        def run() -> None:
            nonlocal params, opt_state, key
            params, opt_state, key, value = step(params, opt_state, key)
            jax.block_until_ready((params, value))

        return run
