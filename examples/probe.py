"""A linear probe (arXiv:1610.01644): what can be read from a layer's states with a linear map."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


class LinearProbe(eqx.Module):
    """Logits of labels from states, fitted by least squares."""

    weight: Float[Array, "labels dim"]
    bias: Float[Array, " labels"]

    @classmethod
    def fit(
        cls,
        states: Float[Array, "tokens dim"],
        classes: Integer[Array, " tokens"],
        num_labels: int,
        *,
        ridge: float = 1e-2,
    ) -> "LinearProbe":
        """
        Args:
            states: Of a layer: `encode(..., output_hidden_states=True).hidden_states[layer]`, tokens that count.
            classes: What the probe is to read from each state, from 0 to `num_labels - 1`.
            num_labels: How many classes there are.
            ridge: The penalty on the squared weights, for each token.
        """
        centred = states - (mean := states.mean(0))
        targets = jax.nn.one_hot(classes, num_labels) - (share := jax.nn.one_hot(classes, num_labels).mean(0))
        gram = centred.T @ centred + ridge * len(states) * jnp.eye(states.shape[1])
        weight = jnp.linalg.solve(gram, centred.T @ targets).T
        return cls(weight, share - weight @ mean)

    def __call__(self, states: Float[Array, "*batch {self.weight.shape[1]}"]) -> Float[Array, "*batch labels"]:
        return states @ self.weight.T + self.bias
