"""Distillation: a student learns a teacher's distribution, beside the labels, and its hidden states."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..model.conditional_generation import BartForConditionalGeneration
from ..model.signature import one_sentence_errors
from ..typing import Array
from .losses import IGNORED, TokenLoss, negative_log_likelihood, sum_in_parts, wide
from .task_losses import Batch, Count, Sum, teacher_forcing


class Distillation(eqx.Module):
    """A loss in the form of a train step, `(sum, count) = loss(model, batch, key)`, that holds the teacher.

    For each label that counts: `ce_weight` x cross entropy + `kl_weight` x T² x KL(teacher || student), both at
    temperature T, + `mse_weight` x the mean squared errors of hidden states. The weights are those of distil-whisper
    (arXiv:2311.00430) and DistilBART (arXiv:2010.13002). Logits of a part of the target are held at a time.

    Errors of the encoder are averaged over each source, and count once for each label of that row. DistilBART averages
    over all source tokens of a batch, so that its mean depends on how examples are batched.

    Give this object to `equinox.filter_jit` as an argument, not in a closure: its arrays would become constants of the
    program.
    """

    teacher: BartForConditionalGeneration
    encoder_layers: tuple[int, ...] = eqx.field(static=True)
    decoder_layers: tuple[int, ...] = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    ce_weight: float = eqx.field(static=True)
    kl_weight: float = eqx.field(static=True)
    mse_weight: float = eqx.field(static=True)
    token_loss: TokenLoss = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @one_sentence_errors
    def __init__(
        self,
        teacher: BartForConditionalGeneration,
        *,
        encoder_layers: Sequence[int] = (),
        decoder_layers: Sequence[int] = (),
        temperature: float = 2.0,
        ce_weight: float = 0.8,
        kl_weight: float = 1.0,
        mse_weight: float = 1.0,
        token_loss: TokenLoss = negative_log_likelihood,
        rows: int = 512,
    ):
        """
        Args:
            teacher: With the student's vocabulary. It runs in inference mode, and is not trained.
            encoder_layers: For each layer of the student's encoder, the teacher's layer whose output it learns, counted
                from 0: `distil_whisper_supervised_layers(12, 6)`, or the layers that `shrink` kept. Empty: none.
            decoder_layers: The same for the decoder.
            temperature: T, by which logits are divided for the second term.
            ce_weight: Of the cross entropy.
            kl_weight: Of the divergence.
            mse_weight: Of the hidden states.
            token_loss: The cross entropy. `functools.partial(fairseq_label_smoothing, epsilon=0.1)` smooths it.
            rows: As in [`token_loss_sum`][bart_eqx.training.token_loss_sum].

        Raises:
            ValueError: if the teacher has no such layer, `temperature` is not positive, or a weight is negative.
        """
        for name, layers, there in (
            ("encoder_layers", encoder_layers, len(teacher.model.encoder.layers)),
            ("decoder_layers", decoder_layers, len(teacher.model.decoder.layers)),
        ):
            if outside := [layer for layer in layers if not 0 <= layer < there]:
                raise ValueError(f"`{name}` must be layers of the teacher, 0 to {there - 1}. Got {outside[0]}.")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive. Got {temperature}.")
        for name, weight in (("ce_weight", ce_weight), ("kl_weight", kl_weight), ("mse_weight", mse_weight)):
            if not weight >= 0:
                raise ValueError(f"`{name}` must not be negative. Got {weight}.")
        self.teacher = eqx.nn.inference_mode(teacher)
        self.encoder_layers = tuple(encoder_layers)
        self.decoder_layers = tuple(decoder_layers)
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.kl_weight = kl_weight
        self.mse_weight = mse_weight
        self.token_loss = token_loss
        self.rows = rows

    @one_sentence_errors
    def __call__(
        self, model: BartForConditionalGeneration, batch: Batch, key: PRNGKeyArray | None = None
    ) -> tuple[Sum, Count]:
        """
        Args:
            model: The student.
            batch: As in [`seq2seq_loss`][bart_eqx.training.seq2seq_loss].
            key: For the student's dropout.

        Raises:
            ValueError: if the student has another vocabulary, or, where hidden states are compared, another width or
                number of layers than was given.
        """
        self._check(model)
        inputs, labels = teacher_forcing(model.config, batch)
        hidden = bool(self.encoder_layers or self.decoder_layers)
        theirs: Any = jax.lax.stop_gradient(self.teacher.model(**inputs, output_hidden_states=hidden))
        ours = model.model(**inputs, output_hidden_states=hidden, key=key)

        def losses(
            states: tuple[Float[Array, "batch part dim"], Float[Array, "batch part _"]],
            labels: Integer[Array, "batch part"],
        ) -> Float[Array, "batch part"]:
            student, teacher = wide(model.lm_logits(states[0])), wide(self.teacher.lm_logits(states[1]))
            student_log_probs = jax.nn.log_softmax(student / self.temperature)
            teacher_log_probs = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / self.temperature)
            kl = jnp.sum(jnp.exp(teacher_log_probs) * (teacher_log_probs - student_log_probs), axis=-1)
            return self.ce_weight * self.token_loss(student, labels) + self.kl_weight * self.temperature**2 * kl

        states = (ours.last_hidden_state, theirs.last_hidden_state)
        total, count = sum_in_parts(losses, states, labels, rows=self.rows)
        counts = labels != IGNORED
        if self.decoder_layers:
            errors = _squared_errors(ours.decoder_hidden_states, theirs.decoder_hidden_states, self.decoder_layers)
            total += self.mse_weight * jnp.sum(jnp.where(counts, errors, 0))
        if self.encoder_layers:
            errors = _squared_errors(ours.encoder_hidden_states, theirs.encoder_hidden_states, self.encoder_layers)
            mask = inputs.get("attention_mask")
            shown = jnp.ones(errors.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
            total += self.mse_weight * jnp.sum(_row_means(errors, shown) * jnp.sum(counts, axis=-1))
        return total, count

    def _check(self, model: BartForConditionalGeneration) -> None:
        student, teacher = model.config, self.teacher.config
        if student.vocab_size != teacher.vocab_size:
            raise ValueError(
                f"Student and teacher must have one vocabulary. Got vocab_size={student.vocab_size} and "
                f"{teacher.vocab_size}."
            )
        for name, layers, there in (
            ("encoder_layers", self.encoder_layers, len(model.model.encoder.layers)),
            ("decoder_layers", self.decoder_layers, len(model.model.decoder.layers)),
        ):
            if layers and len(layers) != there:
                raise ValueError(
                    f"`{name}` must have an entry for each of the student's {there} layers. Got {len(layers)}."
                )
            if layers and student.d_model != teacher.d_model:
                raise ValueError(
                    f"Hidden states are compared between models of one width. Got d_model={student.d_model} and "
                    f"{teacher.d_model}: leave `{name}` out."
                )


def _squared_errors(
    student: tuple[Float[Array, "*batch seq dim"], ...] | None,
    teacher: tuple[Float[Array, "*batch seq dim"], ...] | None,
    layers: tuple[int, ...],
) -> Float[Array, "*batch seq"]:
    """The mean over `dim`, summed over layers. The first of the hidden states is the embedded input."""
    assert student is not None and teacher is not None
    differences = [wide(ours) - wide(teacher[layer + 1]) for ours, layer in zip(student[1:], layers, strict=True)]
    return sum((jnp.mean(jnp.square(x), axis=-1) for x in differences), start=jnp.zeros(()))


def _row_means(x: Float[Array, "*batch src"], shown: Bool[Array, "*batch src"]) -> Float[Array, "*batch"]:
    return jnp.sum(jnp.where(shown, x, 0), axis=-1) / jnp.maximum(jnp.sum(shown, axis=-1), 1)
