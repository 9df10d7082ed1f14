"""What the tasks share: a model with the right head, its tokenizer, and an engine, loaded together."""

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import equinox as eqx
from jax.typing import DTypeLike

from ..checkpoint.errors import UnsupportedCheckpointError
from ..checkpoint.find import find
from ..checkpoint.formats.json import read_json
from ..checkpoint.load import from_pretrained
from ..checkpoint.read import read_checkpoint
from ..checkpoint.save import save_pretrained
from .engine import Engine
from .tokenizer import Tokenizer


class AbstractTask(abc.ABC):
    """A model and its tokenizer, for one task: a text in, one result out; a list in, a list out."""

    heads: ClassVar[tuple[type[eqx.Module], ...]]
    """The classes of models that the task runs."""
    loads: ClassVar[tuple[str, ...]] = ()
    """Other classes that a checkpoint may name; it is then loaded as the first of `heads`."""
    advice: ClassVar[Mapping[str, str]] = {}
    """What to do with a model of another class, by the name of the class; by default, to choose another model."""

    example: ClassVar[str] = ""
    """Where such a model comes from, as the end of a sentence."""

    engine: Engine
    model: Any

    def __init__(self, model: Any, tokenizer: Tokenizer, *, batch_tokens: int = 4096):
        """
        Args:
            model: With the head of this task.
            tokenizer: The model's tokenizer.
            batch_tokens: The maximum number of tokens in a batch, padding included. More are faster up to a point, and
                take more memory.

        Raises:
            TypeError: if the model has another head.
        """
        self.model = model
        if not isinstance(model, self.heads):
            name = type(model).__name__
            raise TypeError(f"{self._needs()}. Got a {name}: {self._advice(name, 'model')}.")
        config = self.model.config
        self.engine = Engine(tokenizer.for_vocabulary(config.vocab_size), config.max_position_embeddings, batch_tokens)

    @classmethod
    def _needs(cls) -> str:
        return f"{cls.__name__} needs a {' or a '.join(head.__name__ for head in cls.heads)}"

    @classmethod
    def _advice(cls, name: str, kind: str) -> str:
        return cls.advice.get(name, f"choose a {kind} that was trained for this task{cls.example}")

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        dtype: DTypeLike | None = None,
        **options: Any,
    ) -> Self:
        """Load a model with its tokenizer.

        Args:
            source: As for [`bart_eqx.from_pretrained`][].
            revision: A branch, tag or commit on the Hub.
            subfolder: A folder inside the source.
            dtype: The dtype of the parameters; by default that of the file.
            **options: Those of the class. They take precedence over what the checkpoint's config.json says of the task.

        Raises:
            CheckpointError: as `bart_eqx.from_pretrained` and `Tokenizer.from_pretrained` do; an
                `UnsupportedCheckpointError` if the checkpoint has another head.
        """
        found = find(source, revision=revision, subfolder=subfolder)
        name = read_checkpoint(found).architecture().name
        if name not in (*(head.__name__ for head in cls.heads), *cls.loads):
            raise UnsupportedCheckpointError(
                f"{source} is a {name}. {cls._needs()}: {cls._advice(name, 'checkpoint')}."
            )
        head = next((head for head in cls.heads if head.__name__ == name), cls.heads[0])
        model = from_pretrained(found.weights, head, dtype=dtype)
        fields = read_json(found.folder / "config.json")
        tokenizer = Tokenizer.from_pretrained(found.folder)
        return cls(model, tokenizer, **(cls.options_of(fields) | options))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model and its tokenizer as a folder that `from_pretrained` and transformers load.

        Args:
            folder: Created if it does not exist.

        Raises:
            CheckpointError: as [`bart_eqx.save_pretrained`][] and `Tokenizer.save_pretrained` do.
        """
        save_pretrained(self.model, folder)
        self.engine.tokenizer.save_pretrained(folder)

    @classmethod
    def options_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the class that a config.json has."""
        return {}
