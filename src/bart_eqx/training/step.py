"""A step of training, one compiled program: gradients, accumulated over micro-batches, and their update by optax."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray, PyTree

from ..parallel.gathered import gathered
from ..parallel.shardings import RULES, Rules, constrain, shard, shard_batch, shardings
from ..typing import Array
from .extras import library
from .parameters import Trainable, every_parameter, trainable_mask


Loss = Callable[[Any, Any, Any], tuple[Any, Any]]
"""`loss(model, batch, key)`: the sum of the losses of a batch, and how many there are."""


class TrainState(eqx.Module):
    """All that a step changes; arrays only, so that it is saved as it is.

    Args:
        params: The trained parameters: a model with `None` elsewhere.
        opt_state: The state of the optimiser.
        step: The steps so far.
        key: Stays the same. The key of a step is derived from it and from `step`.
    """

    params: PyTree
    opt_state: PyTree
    step: Integer[Array, ""]
    key: PRNGKeyArray


class Metrics(eqx.Module):
    """What a step measures, before its update.

    Args:
        loss_sum: The sum of the losses.
        count: The number of losses: of tokens, in a language model.
        gradient_norm: The norm of all gradients of the mean loss together, before any clipping.
        learning_rate: That of the update, where the optimiser's state has it (`optax.inject_hyperparams`), or `None`.
    """

    loss_sum: Float[Array, ""]
    count: Integer[Array, ""] | Float[Array, ""]
    gradient_norm: Float[Array, ""]
    learning_rate: Float[Array, ""] | None

    @property
    def loss(self) -> Float[Array, ""]:
        """The mean loss; 0 where nothing counts."""
        return self.loss_sum / _divisor(self.count)


class TrainStep(eqx.Module):
    """`state, metrics = step(state, batch)`; made by `make_train_step`.

    The arrays of `state` are donated: the new state takes their memory, and the old one cannot be read afterwards.

    Args:
        rest: The model without its trained parameters: frozen arrays, and what is not an array.
        loss: The loss.
        optimizer: The optimiser.
        compute_dtype: The dtype of the model inside the loss; `None` for that of its parameters.
        view: A function of the model inside the loss.
        mesh: Where the state lies, and each batch is put; `None` for one device.
        rules: Which axis of which parameter goes where.
    """

    rest: PyTree
    loss: Loss
    optimizer: Any
    compute_dtype: np.dtype | None = eqx.field(static=True)
    view: Callable[[Any], Any]
    mesh: Mesh | None = eqx.field(static=True)
    rules: Rules = eqx.field(static=True)

    def __call__(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """One update.

        Args:
            state: Cannot be read afterwards.
            batch: Arrays `[micro, batch, ...]`. The micro-batches are computed one after the other. Their losses and
                gradients are added, and divided once by the count of all: the result is that of one large batch.
                On a mesh, `batch` is divided over `data` and `fsdp`.

        Raises:
            ValueError: if the arrays do not have the same first axis; if `data` and `fsdp` do not divide their second.
        """
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(
                f"The arrays of `batch` must be [micro, batch, ...], with one size of `micro`. Got {sizes}."
            )
        if self.mesh is not None:
            batch = shard_batch(batch, self.mesh, axis=1)
        return _compiled((self, batch), state)

    def model(self, state: TrainState) -> Any:
        """The whole model in inference mode. It shares the arrays of `state`, which the next step takes."""
        return eqx.nn.inference_mode(eqx.combine(state.params, self.rest))

    def loss_of(self, params: PyTree, batch: PyTree, key: PRNGKeyArray) -> tuple[Array, Array]:
        """The sum of losses and their count, for one micro-batch."""
        model = eqx.combine(params, self.rest)
        if self.compute_dtype is not None:
            model = jax.tree.map(lambda x: x.astype(self.compute_dtype) if eqx.is_inexact_array(x) else x, model)
            model = self.placed(model)  # or the compiler gathers weights first and converts them then: twice the bytes
        if self.mesh is not None:
            model = gathered(model, self.mesh, self.rules)
        result = self.loss(self.view(model), batch, key)
        if not isinstance(result, tuple) or [np.shape(part) for part in result] != [(), ()]:
            raise ValueError(f"`loss` must return a sum and a count, two scalars. Got {result}.")
        return jnp.asarray(result[0]), jnp.asarray(result[1])

    def gradients(self, state: TrainState, batch: PyTree) -> tuple[Array, Array, PyTree]:
        """The sum of losses, their count, and the gradient of the sum, in at least float32, over all micro-batches."""
        of_micro = jax.value_and_grad(self.loss_of, has_aux=True)
        (micro, *_) = jax.tree.leaves(batch)[0].shape
        keys = jr.split(jr.fold_in(state.key, state.step), micro)

        def one(inputs: Any) -> tuple[Array, Array, PyTree]:
            (loss_sum, count), gradients = of_micro(state.params, *inputs)
            gradients = jax.tree.map(lambda g: g.astype(np.promote_types(g.dtype, np.float32)), gradients)
            return loss_sum, count, self.placed(gradients)

        inputs = (batch, keys)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, jax.tree.map(lambda x: x[0], inputs))
        )
        add = lambda total, inputs: (jax.tree.map(jnp.add, total, one(inputs)), None)
        return jax.lax.scan(add, zeros, inputs)[0]

    def placed(self, tree: PyTree) -> PyTree:
        """What has the parameters' names, where the rules say: the compiler would put it elsewhere."""
        return tree if self.mesh is None else constrain(tree, shardings(tree, self.mesh, self.rules))


@eqx.filter_jit(donate="all-except-first")
def _compiled(fixed: tuple[TrainStep, PyTree], state: TrainState) -> tuple[TrainState, Metrics]:
    optax = library("optax")
    step, batch = fixed
    loss_sum, count, gradients = step.gradients(state, batch)
    gradients = jax.tree.map(lambda g: g / _divisor(count).astype(g.dtype), gradients)
    updates, opt_state = step.optimizer.update(gradients, state.opt_state, state.params)
    is_array = lambda _, value: isinstance(value, jax.Array)
    rates = [
        rate for _, rate in optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate", filtering=is_array)
    ]
    metrics = Metrics(
        loss_sum=loss_sum,
        count=count,
        gradient_norm=jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients))),
        learning_rate=rates[0] if len(rates) == 1 else None,
    )
    params = optax.apply_updates(state.params, updates)
    return step.placed(TrainState(params=params, opt_state=opt_state, step=state.step + 1, key=state.key)), metrics


def make_train_step(
    model: eqx.Module,
    loss: Loss,
    optimizer: Any,
    *,
    key: PRNGKeyArray,
    trainable: Trainable = every_parameter,
    compute_dtype: DTypeLike | None = None,
    view: Callable[[Any], Any] = lambda model: model,
    mesh: Mesh | None = None,
    rules: Rules = RULES,
) -> tuple[TrainStep, TrainState]:
    """A training step, and the state to start from.

    Args:
        model: Is copied where it is trained, and stays as it is. Its dropout is turned on.
        loss: `loss(model, batch, key) -> (sum, count)`. Reuse the function: another one compiles another program.
        optimizer: Any optimiser of optax, an `optax.GradientTransformation`. It holds moments of what is trained only.
        key: For dropout. Each step and micro-batch has its own, derived from this one and the number of the step.
        trainable: Which parameters are trained: a function of their names, or a PyTree of bool. The others keep
            their values, and have no gradients. By default all are trained.
        compute_dtype: `jnp.bfloat16` computes in bfloat16 over float32 parameters, gradients and moments.
        view: Applied to the model inside the loss, as in `view=rematerialise`.
        mesh: From `bart_eqx.parallel.make_mesh`. All parameters and the optimiser's state go where `rules` say, and
            stay there. Each batch is divided. Inside the loss the model is `gathered`, and then goes through `view`.
        rules: For `mesh`, as in `bart_eqx.parallel.shard`.

    Raises:
        ImportError: if the extra `train` is not installed.
        ValueError: if no parameter is trained, or one in float16; or if `compute_dtype` is float16, or no float.
    """
    library("optax")
    dtype = None if compute_dtype is None else np.dtype(compute_dtype)
    if dtype is not None and (dtype == np.float16 or not jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(
            f"`compute_dtype` must be bfloat16, float32 or float64: float16 needs scaled losses. Got {dtype}."
        )
    params, rest = eqx.partition(eqx.nn.inference_mode(model, value=False), trainable_mask(model, trainable))
    if any(leaf.dtype == np.float16 for leaf in jax.tree.leaves(params)):
        raise ValueError(
            "float16 has no number below 6e-8, so that Adam divides by zero and the loss becomes NaN. Load the model "
            "in float32, from_pretrained(..., dtype=jnp.float32), and compute with `compute_dtype=jnp.bfloat16`."
        )
    if mesh is not None:
        params, rest = shard(params, mesh, rules), shard(rest, mesh, rules)
    params = jax.tree.map(jnp.copy, params)  # they are donated to the first step, and the caller's are not
    state = TrainState(
        params=params, opt_state=optimizer.init(params), step=jnp.zeros((), jnp.int32), key=jnp.copy(key)
    )
    if mesh is not None:
        state = shard(state, mesh, rules)
    step = TrainStep(
        rest=rest, loss=loss, optimizer=optimizer, compute_dtype=dtype, view=view, mesh=mesh, rules=tuple(rules)
    )
    return step, state


def _divisor(count: Array) -> Array:
    return jnp.where(count == 0, 1, count)
