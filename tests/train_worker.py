"""A run of a tiny BART in a process of its own, which kills itself: `python train_worker.py FOLDER [KILL]`.

KILL is a step, at whose record the process dies, or `save`, for the first moment at which a checkpoint is half
written. A run that comes to its end writes state.npz. With `DEVICES=n` the last checkpoint is read, with matrices
spread over n devices, and written as state.npz.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bart_eqx
from bart_eqx.training import Checkpoints, Recipe, batches, make_train_step, seq2seq_loss, train
from training_support import ragged_examples


STEPS, SAVE_EVERY = 24, 4


def start() -> Any:
    config = bart_eqx.BartConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
        dropout=0.1,
    )
    model = bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0))
    recipe = Recipe(3e-3, warmup_steps=3, total_steps=STEPS, weight_decay=0.01, clip_norm=1.0)
    return make_train_step(model, seq2seq_loss, recipe.optimizer(), key=jax.random.key(1))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_save(folder: Path) -> None:
    while not [*folder.glob("checkpoints/*.orbax-checkpoint-tmp*")]:
        time.sleep(0.0005)
    die()


def numbers(state: Any) -> dict[str, Any]:
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    data = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    return {jax.tree_util.keystr(path): np.asarray(data(leaf)) for path, leaf in leaves}


def main() -> None:
    folder, kill = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    step, state = start()
    if "DEVICES" in os.environ:
        mesh = jax.make_mesh((int(os.environ["DEVICES"]),), ("data",), axis_types=(AxisType.Auto,))
        rows = lambda x: x.ndim == 2 and x.shape[0] % mesh.size == 0
        spread = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data") if rows(x) else PartitionSpec()))
        state = jax.tree.map(spread, state)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            restored = checkpoints.restore(state)
        assert restored is not None
        pairs = zip(jax.tree.leaves(restored.state), jax.tree.leaves(state), strict=True)
        assert all(one.sharding == other.sharding for one, other in pairs)
        state = restored.state
    else:
        if kill == "save":
            threading.Thread(target=die_in_a_save, args=(folder,), daemon=True).start()
        data = batches(ragged_examples(60), batch_tokens=64, pad_token_id=1, seed=0, micro=2, max_shapes=2)
        on_record = lambda record: die() if str(record["step"]) == kill else None
        state = train(step, state, data, folder, total_steps=STEPS, save_every=SAVE_EVERY, on_record=on_record).state
    np.savez(folder / "state.npz", **numbers(state))


if __name__ == "__main__":
    main()
