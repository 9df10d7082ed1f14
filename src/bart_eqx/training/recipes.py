"""The published recipes of BART's fine-tuning and pre-training: numbers, and the optax optimiser made of them."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .extras import library
from .parameters import decay_mask


@dataclasses.dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up and a polynomial decay. `dataclasses.replace(CNN_DM, total_steps=1000)` changes it.

    Args:
        learning_rate: After the warm-up.
        warmup_steps: From a rate of zero up to `learning_rate`.
        total_steps: The step at which the rate is `end_learning_rate`; it stays there afterwards.
        end_learning_rate: The last rate.
        power: Of the decay; 1 is linear.
        b1: Adam's decay of the mean of gradients.
        b2: Adam's decay of the mean of squared gradients.
        eps: Adam's, added to the root of the latter.
        weight_decay: Decoupled from the gradients (arXiv:1711.05101), times the rate; not for biases and norms.
        clip_norm: The most that the norm of all gradients may be; `None` for no limit.
        batch_tokens: For `batches`: tokens of a micro-batch.
        micro: For `batches`: micro-batches of a step, those of all devices of the recipe together.
        label_smoothing: For the loss.
        dropout: For the model's configuration, as `attention_dropout`: `from_pretrained(..., config=...)`.
        attention_dropout: See `dropout`.
    """

    learning_rate: float
    warmup_steps: int
    total_steps: int
    end_learning_rate: float = 0.0
    power: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    batch_tokens: int = 2048
    micro: int = 1
    label_smoothing: float = 0.0
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"`warmup_steps` must be at least 0 and less than `total_steps`. Got {self.warmup_steps} and "
                f"{self.total_steps}."
            )

    def schedule(self) -> Callable[[Any], Any]:
        """The learning rate of each step, as an optax schedule.

        Raises:
            ImportError: if the extra `train` is not installed.
        """
        optax = library("optax")
        decay = optax.polynomial_schedule(
            self.learning_rate, self.end_learning_rate, self.power, self.total_steps - self.warmup_steps
        )
        if self.warmup_steps == 0:
            return decay
        warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.join_schedules([warmup, decay], [self.warmup_steps])

    def optimizer(self) -> Any:
        """An `optax.GradientTransformation`; its state holds the learning rate.

        Raises:
            ImportError: if the extra `train` is not installed.
        """
        optax = library("optax")
        with_rate = optax.inject_hyperparams(optax.scale_by_learning_rate, static_args="flip_sign")
        parts = [
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask),
            with_rate(self.schedule()),
        ]
        if self.clip_norm is not None:
            parts = [optax.clip_by_global_norm(self.clip_norm), *parts]
        return optax.chain(*parts)


CNN_DM = Recipe(
    learning_rate=3e-5,
    warmup_steps=500,
    total_steps=20_000,
    weight_decay=0.01,
    clip_norm=0.1,
    batch_tokens=2048,
    micro=4 * 8,
    label_smoothing=0.1,
)
"""bart-large on CNN/DailyMail: fairseq's examples/bart/README.summarization.md; 8 devices, `--update-freq 4`."""

XSUM = dataclasses.replace(CNN_DM, total_steps=15_000, micro=2 * 8)
"""bart-large on XSum: the same file; 15,000 updates, `--update-freq 2`."""

PRETRAINING = Recipe(learning_rate=1e-4, warmup_steps=2000, total_steps=100_000, batch_tokens=32 * 1024, micro=8)
"""bart-base from random weights by denoising: transformers' examples/flax/language-modeling/README.md; 8 devices with
32 rows of 1024 tokens. That recipe trains for three epochs: `total_steps` is yours to set."""

MNLI = Recipe(
    learning_rate=5e-6, warmup_steps=1858, total_steps=30_968, b2=0.98, weight_decay=0.01, batch_tokens=4400, micro=1
)
"""bart-large on MNLI: fairseq's examples/bart/README.glue.md. Its batch is 128 pairs, and at most 4,400 tokens."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {"cnn_dm": CNN_DM, "xsum": XSUM, "mnli": MNLI, "pretraining": PRETRAINING}
)
"""By the names of the command line."""
