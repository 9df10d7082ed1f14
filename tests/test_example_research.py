"""The examples that look into a model, or change a little of it, each against its definition."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from bart_eqx.training import cross_entropy
from examples.head_masking import mask_heads
from examples.interventions import Patch, Steer, intervene
from examples.logit_lens import logit_lens
from examples.probe import LinearProbe
from examples.soft_prompt import encode_with_prompt
from examples.token_classification import BartForTokenClassification
from extension_checks import CONFIG, check_cached_equals_full, check_generates, self_attentions
from support import ragged_inputs, random_model, relative_error


INPUTS = ragged_inputs(CONFIG)
IDS, MASK, TARGET = INPUTS["input_ids"], INPUTS["attention_mask"], INPUTS["decoder_input_ids"]


@pytest.fixture(scope="module")
def bart() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def numbers(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape)


class TestInterventions:
    def test_patching(self, bart: Any) -> None:
        """A state of another run at position 3 after the first layer, and then the second layer alone. Causal: nothing
        before position 3 changes in the decoder."""
        clean = bart.encode(IDS[0], output_hidden_states=True).hidden_states
        corrupted = bart.encode(IDS[0][::-1].copy(), output_hidden_states=True)
        patched = intervene(bart, "model.encoder.layers.0", Patch(clean[1][3], 3))
        got = patched.encode(IDS[0][::-1].copy()).last_hidden_state
        states = corrupted.hidden_states[1].at[3].set(clean[1][3])
        wanted, _ = bart.model.encoder.layers[1](states, None, jnp.arange(11))
        assert relative_error(got, wanted) <= 1e-6 < relative_error(got, corrupted.last_hidden_state)

        out = bart(IDS, MASK, TARGET, output_hidden_states=True)
        other = bart(IDS, MASK, TARGET[:, ::-1].copy(), output_hidden_states=True)
        last = intervene(bart, "model.decoder.layers.1", Patch(other.decoder_hidden_states[2][0, 5], 5))
        logits = np.asarray(last(IDS, MASK, TARGET).logits)
        wanted = np.asarray(out.logits).copy()
        wanted[:, 5] = other.logits[0, 5]
        assert relative_error(logits, wanted) <= 1e-6

    def test_causal_tracing(self, bart: Any) -> None:
        """Every position of every decoder layer in one program: patched with its own run's state nothing changes; and
        what a patch restores is what a corrupted run lacks."""
        run = lambda model, ids: model(ids, None, TARGET[0], output_hidden_states=True)
        clean, corrupted = run(bart, IDS[0]), run(bart, np.where(IDS[0] == IDS[0, 4], 5, IDS[0]))

        @eqx.filter_jit
        @eqx.filter_vmap(in_axes=(None, 0, 0))
        def logits(ids: Any, state: jax.Array, position: jax.Array) -> jax.Array:
            return run(intervene(bart, "model.decoder.layers.0", Patch(state, position)), ids).logits

        positions = jnp.arange(7)
        assert relative_error(logits(IDS[0], clean.decoder_hidden_states[1], positions)[0], clean.logits) <= 1e-6
        restored = logits(np.where(IDS[0] == IDS[0, 4], 5, IDS[0]), clean.decoder_hidden_states[1], positions)
        for position in range(7):
            assert (
                relative_error(restored[position, :position], corrupted.logits[:position]) <= 1e-6 if position else True
            )
            assert not np.allclose(restored[position, position], corrupted.logits[position], rtol=1e-3)

    def test_steering(self, bart: Any) -> None:
        """After the last layer, a vector of the table adds its products to the logits."""
        vector = bart.model.shared.weight[20]
        steered = intervene(bart, "model.decoder.layers.1", Steer(vector, 3.0))
        wanted = bart(IDS, MASK, TARGET).logits + 3 * bart.model.shared.weight @ vector
        assert relative_error(steered(IDS, MASK, TARGET).logits, wanted) <= 1e-6
        strong = intervene(bart, "model.decoder.layers.1", Steer(vector, 1e4))
        assert np.all(bart_eqx.generate(strong, IDS, max_length=6).sequences[:, 1:5] == 20)

    @pytest.mark.parametrize("edit", [Steer(numbers(32)), Patch(numbers(32), 3)], ids=["steer", "patch"])
    def test_generates(self, bart: Any, edit: Any) -> None:
        """On both sides: beams have the positions of their sequences."""
        edited = intervene(intervene(bart, "model.encoder.layers.1", edit), "model.decoder.layers.0", edit)
        check_cached_equals_full(edited)
        check_generates(edited)

    def test_wrong(self, bart: Any) -> None:
        for edit in (Steer(numbers(31)), Patch(numbers(31), 3)):
            with pytest.raises(TypeCheckError, match=r"\*batch seq \{len\(self"):
                intervene(bart, "model.decoder.layers.0", edit)(IDS, MASK, TARGET)
        with pytest.raises(ValueError, match="no layer 'decoder.layers.0'. There are model.encoder.layers.0, "):
            intervene(bart, "decoder.layers.0", Steer(numbers(32)))


class TestHeadMasking:
    HEAD_MASK = jnp.array([1.0, 0.0, 0.5, 1.0])

    def masked(self, bart: Any) -> Any:
        masked = [mask_heads(attention, self.HEAD_MASK) for attention in self_attentions(bart)]
        return eqx.tree_at(self_attentions, bart, masked)

    def test_definition(self, bart: Any) -> None:
        """As transformers' `layer_head_mask`: each head's weights times its factor."""
        attention, x, positions = self_attentions(bart)[0], numbers(9, 32), jnp.arange(9)
        keys, values = attention.project_kv(x, positions)
        got, weights = mask_heads(attention, self.HEAD_MASK).attend(x, keys, values, None, positions, positions)
        wanted = (np.asarray(weights) * np.asarray(self.HEAD_MASK)[:, None, None]) @ np.asarray(values)
        wanted = np.swapaxes(wanted, 0, 1).reshape(9, 32) @ attention.out_proj.weight.T + attention.out_proj.bias
        assert relative_error(got, wanted) <= 1e-6

    def test_importance(self, bart: Any) -> None:
        """The gradient of a factor is the slope of the loss: here by central differences."""
        where = lambda m: m.model.decoder.layers[1].encoder_attn

        def loss(head_mask: jax.Array) -> jax.Array:
            masked = eqx.tree_at(where, bart, mask_heads(where(bart), head_mask))
            states = masked.model(IDS, MASK, TARGET).last_hidden_state
            return cross_entropy(masked.lm_logits, states, np.roll(TARGET, -1))

        loss, step = jax.jit(loss), 1e-2
        slopes = [(loss(jnp.ones(4).at[h].add(step)) - loss(jnp.ones(4).at[h].add(-step))) / 2 / step for h in range(4)]
        assert relative_error(jax.grad(loss)(jnp.ones(4)), np.array(slopes)) <= 1e-2

    def test_generates(self, bart: Any) -> None:
        check_cached_equals_full(self.masked(bart))
        check_generates(self.masked(bart))

    def test_wrong_shape(self, bart: Any) -> None:
        with pytest.raises(TypeCheckError, match=r"(?s)'head_mask'.*\{attention.num_heads\}"):
            mask_heads(self_attentions(bart)[0], jnp.ones(2))


class TestLogitLens:
    def test_definition(self, bart: Any) -> None:
        """The last layer's are the model's logits, and the first are those of the embedded input."""
        out = bart(IDS, MASK, TARGET, output_hidden_states=True)
        lens = logit_lens(bart, out.decoder_hidden_states)
        assert lens.shape == (3, 3, 7, 97)
        assert relative_error(lens[-1], out.logits) <= 1e-6
        table = np.asarray(bart.model.shared.weight, np.float64)
        wanted = np.asarray(out.decoder_hidden_states[0], np.float64) @ table.T + bart.final_logits_bias
        assert relative_error(lens[0], wanted) <= 1e-6

    def test_of_generated_text(self, bart: Any) -> None:
        """The last layer chooses what greedy search chose."""
        ids, mask = IDS[:1], MASK[:1]
        result = bart_eqx.generate(bart, ids, mask, max_length=8, output_hidden_states=True, forced_eos_token_id=None)
        assert result.decoder_hidden_states is not None
        states = tuple(layer[0] for layer in result.decoder_hidden_states)
        steps = int(result.lengths[0]) - 1
        assert np.array_equal(jnp.argmax(logit_lens(bart, states)[-1], -1)[:steps], result.sequences[0, 1:][:steps])

    def test_wrong_shape(self, bart: Any) -> None:
        with pytest.raises(TypeCheckError, match=r"self.weight.shape\[1\]"):
            logit_lens(bart, (numbers(7, 31), numbers(7, 31)))


class TestProbe:
    def test_least_squares(self) -> None:
        """With a small penalty, NumPy's own least squares."""
        states, classes = numbers(50, 6), np.random.default_rng(0).integers(0, 3, 50)
        probe = LinearProbe.fit(states, jnp.asarray(classes), 3, ridge=1e-9)
        ones = np.concatenate([states, np.ones((50, 1))], axis=1)
        wanted = ones @ np.linalg.lstsq(ones, np.eye(3)[classes], rcond=None)[0]
        assert relative_error(probe(states), wanted) <= 1e-4

    def test_what_a_layer_knows(self) -> None:
        """At the first of four digits the demo's encoder knows the last, and its embeddings do not. Measured 64 % and
        19 %, where guessing gets 11 %."""
        model: Any = bart_eqx.from_pretrained("demo", bart_eqx.BartModel)
        digits = np.random.default_rng(0).integers(1, 10, (600, 4))
        ids = np.concatenate([np.zeros((600, 1), int), 20 + digits, np.full((600, 1), 2)], axis=1)
        hidden_states = eqx.filter_jit(model.encode)(ids, output_hidden_states=True).hidden_states
        accuracy = []
        for states in hidden_states:
            probe = LinearProbe.fit(states[:400, 1], jnp.asarray(digits[:400, -1]), 10)
            accuracy.append(float(jnp.mean(jnp.argmax(probe(states[400:, 1]), -1) == digits[400:, -1])))
        assert accuracy[0] < 0.25 < 0.55 < max(accuracy[1:])

    def test_wrong_shape(self) -> None:
        with pytest.raises(TypeCheckError, match=r"(?s)'classes'.*tokens"):
            LinearProbe.fit(numbers(50, 6), jnp.zeros(49, int), 3)
        with pytest.raises(TypeCheckError, match=r"self.weight.shape\[1\]"):
            LinearProbe.fit(numbers(50, 6), jnp.zeros(50, int), 3)(numbers(50, 7))


class TestSoftPrompt:
    def test_of_words(self, bart: Any) -> None:
        """The vectors of words in front of a text are those words in front of it."""
        words = np.array([30, 31, 32])
        encoded, mask = encode_with_prompt(bart, bart.model.shared.weight[words], IDS, MASK)
        ids = np.concatenate([np.broadcast_to(words, (3, 3)), IDS], axis=1)
        wanted = bart.encode(ids, mask)
        assert relative_error(encoded.last_hidden_state, wanted.last_hidden_state) <= 1e-6
        for num_beams in (1, 4):
            options: dict[str, Any] = dict(num_beams=num_beams, max_length=9)
            got, expected = (
                bart_eqx.generate(bart, encoder_outputs=outputs, attention_mask=mask, **options).sequences
                for outputs in (encoded, wanted)
            )
            assert np.array_equal(got, expected)

    def test_training(self, bart: Any) -> None:
        """The prompt alone learns to bring about an answer."""
        ids, mask, target = IDS, MASK, jnp.array([[2, 40, 41, 42]] * 3)

        @eqx.filter_jit
        @eqx.filter_value_and_grad
        def loss(prompt: jax.Array) -> jax.Array:
            encoded, mask_ = encode_with_prompt(bart, prompt, ids, mask)
            logits = bart.decode(target[:, :-1], encoder_outputs=encoded, encoder_attention_mask=mask_).logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, target[:, 1:]).mean()

        prompt, optimiser = numbers(5, 32), optax.adam(0.1)
        state, values = optimiser.init(prompt), []
        for _ in range(60):
            value, gradient = loss(prompt)
            updates, state = optimiser.update(gradient, state)
            prompt = eqx.apply_updates(prompt, updates)
            values.append(float(value))
        assert values[-1] < 0.6 * values[0]

    def test_wrong_shape(self, bart: Any) -> None:
        with pytest.raises(TypeCheckError, match=r"(?s)'attention_mask'.*\*batch src"):
            encode_with_prompt(bart, numbers(5, 32), IDS, MASK[:, 1:])
        with pytest.raises(TypeCheckError, match=r"(?s)'prompt'.*prompt \{model.config.d_model\}"):
            encode_with_prompt(bart, numbers(5, 31), IDS, MASK)


class TestTokenClassification:
    def test_definition(self, bart: Any) -> None:
        """The head on the decoder's states; padding changes nothing."""
        model = BartForTokenClassification(bart.model, 5, key=jax.random.key(0))
        logits = model(IDS, MASK)
        states = bart.model(IDS, MASK, IDS).last_hidden_state
        assert logits.shape == (3, 11, 5)
        wanted = np.asarray(states) @ np.asarray(model.classifier.weight).T
        for row in range(3):
            tokens = MASK[row] == 1
            assert relative_error(logits[row][tokens], wanted[row][tokens]) <= 1e-5
            assert relative_error(model(IDS[row][tokens]), logits[row][tokens]) <= 1e-5

    def test_training(self, bart: Any) -> None:
        """Of the head alone, over a frozen model: which token is a `</s>`."""
        model = BartForTokenClassification(bart.model, 2, key=jax.random.key(0))
        labels = (IDS == CONFIG.eos_token_id).astype(int)

        @eqx.filter_jit
        @eqx.filter_value_and_grad
        def loss(head: Any) -> jax.Array:
            logits = eqx.tree_at(lambda m: m.classifier, model, head)(IDS, MASK)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(losses, where=MASK == 1) / MASK.sum()

        head, optimiser, values = model.classifier, optax.adam(0.1), []
        state = optimiser.init(eqx.filter(head, eqx.is_array))
        for _ in range(200):
            value, gradients = loss(head)
            updates, state = optimiser.update(gradients, state)
            head = eqx.apply_updates(head, updates)
            values.append(float(value))
        assert values[-1] < 0.65 * values[0]

    def test_wrong_shape(self, bart: Any) -> None:
        model = BartForTokenClassification(bart.model, 5, key=jax.random.key(0))
        with pytest.raises(TypeCheckError, match=r"(?s)'attention_mask'.*\*batch src"):
            model(IDS, MASK[:, 1:])
        wrong = eqx.tree_at(lambda m: m.classifier.weight, model, jnp.ones((5, 31)))
        with pytest.raises(TypeCheckError, match="width of the weights"):
            wrong(IDS, MASK)
