"""A new head: a label for every token, for named entities or parts of speech."""

import equinox as eqx
from jaxtyping import Array, Float, Integer, PRNGKeyArray

import bart_eqx
from bart_eqx.model.layers import Linear
from bart_eqx.typing import HostArray, Mask


class BartForTokenClassification(eqx.Module):
    """BART with logits over labels from the decoder's states, which read the whole text twice, as in the paper."""

    model: bart_eqx.BartModel
    classifier: Linear

    def __init__(self, model: bart_eqx.BartModel, num_labels: int, *, key: PRNGKeyArray):
        """
        Args:
            model: With the weights of any checkpoint: `from_pretrained(source, bart_eqx.BartModel)`.
            num_labels: How many labels there are.
            key: For the initial weights of the head.
        """
        self.model = model
        self.classifier = Linear(model.config.d_model, num_labels, init_std=model.config.init_std, key=key)

    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch src"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch src labels"]:
        """The decoder reads the same tokens, not shifted: the state of a token has seen those before it, and the
        encoder's of all."""
        states = self.model(input_ids, attention_mask, input_ids, attention_mask, key=key).last_hidden_state
        return self.classifier(states)
