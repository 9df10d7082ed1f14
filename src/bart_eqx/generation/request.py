"""A call of `generate` or `stream` as it came, before it is checked."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from jaxtyping import Float, Integer, PRNGKeyArray

from ..generation_config import GenerationConfig
from ..model.language_model import AbstractLanguageModel, AbstractSeq2SeqLM
from ..model.outputs import BaseModelOutput
from ..typing import Array, HostArray, Mask


Semantics = Literal["pytorch", "flax"]

Checked = TypeVar("Checked", bound=Callable[..., Any])


def checked_by_hand(signature: Checked) -> Checked:
    """Turns off jaxtyping's check of a function or dataclass, whose report prints the whole model. `check_arguments`
    says what is wrong in one sentence."""
    setattr(signature, "__no_type_check__", True)  # noqa: B010
    return signature


@checked_by_hand
@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of `generate`, which describes them. Only after `check_arguments` do they have these types."""

    model: AbstractLanguageModel
    input_ids: Integer[HostArray, "*batch src"] | Float[HostArray, "*batch rows columns"] | None = None
    attention_mask: Mask[HostArray, "*batch src"] | None = None
    encoder_outputs: BaseModelOutput | None = None
    encoder_attention_mask: Mask[HostArray, "*batch encoder_src"] | None = None
    decoder_input_ids: Integer[HostArray, "*batch prompt"] | None = None
    decoder_attention_mask: Mask[HostArray, "*batch prompt"] | None = None
    generation_config: GenerationConfig | None = None
    logits_processor: Sequence[Callable[..., Array]] = ()
    prefix_allowed_tokens: Sequence[Any] | None = None
    semantics: Semantics = "pytorch"
    pad_to_multiple_of: int | None = None
    key: PRNGKeyArray | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """All other keyword arguments."""

    @classmethod
    def from_keywords(cls, arguments: Mapping[str, Any]) -> "Request":
        """From the arguments of `generate` by name. A name that is not one of its parameters is an option."""
        parameters = {field.name for field in dataclasses.fields(cls)} - {"options"}
        options = {name: value for name, value in arguments.items() if name not in parameters}
        return cls(**{name: arguments[name] for name in parameters & arguments.keys()}, options=options)

    @property
    def reads_features(self) -> bool:
        """Whether the source is features, and not token ids."""
        return isinstance(self.model, AbstractSeq2SeqLM) and self.model.source_ndim == 2

    @property
    def encoder_hidden_states(self) -> Float[HostArray, "*batch src dim"] | None:
        return None if self.encoder_outputs is None else self.encoder_outputs.last_hidden_state
