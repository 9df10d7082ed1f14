"""The options of `bart-eqx train`, those that all tasks share."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from .cache import CacheDir
from .errors import UsageError, option


if TYPE_CHECKING:  # it imports JAX
    from ..training import Recipe

_FILES, _MODEL, _RECIPE, _RUN = (
    Group(name, sort_key=1 + index) for index, name in enumerate(("Files", "Model", "Recipe", "Run"))
)
_AT_LEAST_ONE = ("total_steps", "epochs", "batch_tokens", "micro", "max_shapes", "row_multiple")


@Parameter(name="*", group=_FILES)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainFiles:
    train: Path
    """What is learned: a .jsonl file with an object on each line, or a .csv or .tsv file with a header."""
    validation: Path | None = None
    """The same, held out: the model with the best score on it is kept. Without it, the last one is."""
    output: Annotated[Path, Parameter(alias="-o")]
    """The folder of the run. The same command goes on there after it was stopped."""
    config: Path | None = None
    """A YAML file with options by their names: learning_rate: 1e-4. The command line comes before it."""


@Parameter(name="*", group=_MODEL)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainModel:
    model: Annotated[str, Parameter(alias="-m")]
    """Where training starts: a folder, an id on the Hugging Face Hub, a short name such as bart-base, or demo."""
    revision: str | None = None
    """A branch, tag or commit on the Hub."""
    subfolder: str | None = None
    """A folder inside the source."""
    from_scratch: Annotated[bool, Parameter(negative="")] = False
    """Start from random weights: of the model, only config.json and the tokenizer are read."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation. Weights, gradients and moments are float32."""
    rematerialise: Annotated[bool, Parameter(negative="")] = False
    """Compute each layer again in the backward pass: less memory, and a third more time."""
    fsdp: int | None = None
    """Devices over which weights, gradients and moments are divided; 1 by default."""
    tensor: int | None = None
    """Devices over which heads and feed-forward units are divided; 1 by default. All others divide the batch."""
    cache_dir: CacheDir = None
    """The folder of compiled programs (see `bart-eqx cache --help`)."""

    def __post_init__(self) -> None:
        for name in ("fsdp", "tensor"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{option(name)} must be at least 1. Got {value}.")


@Parameter(name="*", group=_RECIPE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    recipe: Literal["cnn_dm", "xsum", "mnli", "pretraining"] | None = None
    """A published recipe, from which the other options of this group come where they are not given."""
    learning_rate: float | None = None
    """After the warm-up."""
    warmup_steps: int | None = None
    """Steps from a learning rate of zero; by default the same part of all steps as in the recipe."""
    total_steps: int | None = None
    """Steps of the run, over which the learning rate decays."""
    epochs: float | None = None
    """In place of --total-steps: how often each record comes."""
    end_learning_rate: float | None = None
    """At the last step."""
    power: float | None = None
    """Of the decay; 1 is linear."""
    b1: float | None = None
    """Adam's decay of the mean of gradients."""
    b2: float | None = None
    """Adam's decay of the mean of squared gradients."""
    eps: float | None = None
    """Adam's, added to the root of the latter."""
    weight_decay: float | None = None
    """Times the learning rate; not of biases and norms."""
    clip_norm: float | None = None
    """The most that the norm of all gradients may be; 0 is no limit."""
    batch_tokens: int | None = None
    """Tokens of a micro-batch, padding included: what must fit into memory."""
    micro: int | None = None
    """Micro-batches of a step, computed one after the other."""
    dropout: float | None = None
    """Of the model."""
    attention_dropout: float | None = None
    """Of the model's attention."""
    max_shapes: int = 8
    """The most shapes of batches, each of which is compiled. Fewer shapes have more padding."""
    row_multiple: int | None = None
    """The rows of a micro-batch are a multiple of this; by default the number of devices that share them."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{option(name)} must be a number that is not negative. Got {value}.")
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and (value <= 0 or (name != "epochs" and value < 1)):
                raise UsageError(
                    f"{option(name)} must be {'positive' if name == 'epochs' else 'at least 1'}. Got {value}."
                )
        if self.total_steps is not None and self.epochs is not None:
            raise UsageError("Give --total-steps or --epochs, not both.")

    def given(self) -> dict[str, Any]:
        """The fields of a `Recipe` that were given, but for the steps."""
        others = {"recipe", "warmup_steps", "total_steps", "epochs", "max_shapes", "row_multiple"}
        values = {name: value for name, value in vars(self).items() if name not in others and value is not None}
        return values | ({"clip_norm": None} if self.clip_norm == 0 else {})

    def resolve(self, base: "Recipe", steps_per_epoch: int) -> "Recipe":
        """The recipe of a run.

        Args:
            base: The published one, with `given`.
            steps_per_epoch: Of its batches.

        Raises:
            UsageError: if the warm-up takes all steps.
        """
        total = self.total_steps or base.total_steps
        if self.epochs is not None:
            total = max(round(self.epochs * steps_per_epoch), 1)
        warmup = self.warmup_steps
        if warmup is None:
            warmup = base.warmup_steps * total // base.total_steps
        if not 0 <= warmup < total:
            raise UsageError(f"--warmup-steps must be less than the {total} steps of the run. Got {warmup}.")
        return dataclasses.replace(base, total_steps=total, warmup_steps=warmup)


@Parameter(name="*", group=_RUN)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRun:
    seed: int = 0
    """Of the order of records, of dropout, and of new weights."""
    save_every: int = 1000
    """Steps between checkpoints: what a kill loses at most. Ctrl-C and SIGTERM lose nothing."""
    keep: int = 1
    """How many checkpoints stay."""
    evaluate_every: int = 1000
    """Steps between evaluations on the --validation file. There is one at the end, too."""
    evaluation_records: int = 500
    """Records of the --validation file that are evaluated, always the same; 0 is all."""
    patience: int | None = None
    """Stop after this many evaluations in a row without a better score."""

    def __post_init__(self) -> None:
        for name in ("save_every", "keep", "evaluate_every", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{option(name)} must be at least 1. Got {value}.")
        if self.seed >= 2**32:
            raise UsageError(f"--seed must be less than {2**32}. Got {self.seed}.")
        for name in ("seed", "evaluation_records"):
            if getattr(self, name) < 0:
                raise UsageError(f"{option(name)} must not be negative. Got {getattr(self, name)}.")
