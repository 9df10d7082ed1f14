"""`generate` and `stream`: what holds for every search, whatever the reference does."""

import dataclasses
import functools
import inspect
import itertools
import logging
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from num2words import num2words
from scipy import stats
from tokenizers import Tokenizer

import bart_eqx
from bart_eqx import GenerationConfig, GenerationResult, generate, lazy_beartype, stream
from bart_eqx.generation.beam_rules import BeamSettings, PyTorchRules
from bart_eqx.generation.beam_search import beam_search
from bart_eqx.generation.beams import Continuations
from bart_eqx.generation.decode_loop import EndAndPadding
from bart_eqx.generation.model_calls import ModelInputs
from bart_eqx.generation.request import Request
from bart_eqx.model.outputs import BaseModelOutput
from bart_eqx.typing import Array
from generation_cases import cases, mismatch
from support import configured, precision, ragged_inputs, random_model


Model = bart_eqx.BartForConditionalGeneration
KEY = jax.random.key(0)
FREE: dict[str, Any] = dict(forced_eos_token_id=None)

# One of every search. They share shapes, and so programs.
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": dict(),
    "sampling": dict(do_sample=True, key=KEY, temperature=2.0),
    "beams": dict(num_beams=3),
    "groups": dict(num_beams=4, num_beam_groups=2, diversity_penalty=1.5),
    "words": dict(num_beams=3, force_words_ids=[[40, 41], [[50], [60, 61]]]),
    "lookup": dict(prompt_lookup_num_tokens=3),
}


def ending(model: Any) -> Any:
    """Made likelier to end, so that rows end at different places."""
    bias = model.final_logits_bias.at[0, model.config.eos_token_id].add(9.0)
    return eqx.tree_at(lambda m: m.final_logits_bias, model, bias)


@pytest.fixture(scope="module")
def model() -> Model:
    """One layer in the decoder: what compiles here is mostly that."""
    return ending(random_model(Model, configured("unequal", decoder_layers=1), seed=2))


@pytest.fixture(scope="module")
def causal() -> bart_eqx.BartForCausalLM:
    return random_model(bart_eqx.BartForCausalLM, configured("unequal", decoder_layers=1), seed=4)


def write(model: Any, **options: Any) -> GenerationResult:
    inputs = ragged_inputs(model.config)
    defaults: dict[str, Any] = dict(max_length=12) | FREE
    return generate(model, inputs["input_ids"], inputs["attention_mask"], **(defaults | options))


def written_out(model: Model, ids: Any, mask: Any, max_length: int, bos: int | None, eos: int | None) -> list[int]:
    """One row, without a cache and without a loop of JAX's: the whole prefix anew for every token."""
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    tokens = [model.config.decoder_start_token_id]
    while len(tokens) < max_length:
        if len(tokens) == 1 and bos is not None:
            tokens.append(bos)
        elif len(tokens) == max_length - 1 and eos is not None:
            tokens.append(eos)
        else:
            tokens.append(
                int(jnp.argmax(full(model, ids, mask, np.array(tokens + [pad] * (15 - len(tokens))), len(tokens))))
            )
        if tokens[-1] == end:
            break
    return tokens


@eqx.filter_jit
def full(model: Model, ids: Any, mask: Any, tokens: Any, length: Any) -> Any:
    return model(ids, mask, tokens).logits[jnp.asarray(length) - 1]


@pytest.mark.parametrize(("config", "bos", "eos"), [("unequal", None, None), ("other_ids", 13, 7)])
def test_greedy(config: str, bos: int | None, eos: int | None) -> None:
    writer = ending(random_model(Model, configured(config, decoder_layers=1), seed=2))
    inputs = ragged_inputs(writer.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    result = generate(writer, ids, mask, max_length=12, forced_bos_token_id=bos, forced_eos_token_id=eos)
    assert result.sequences.shape == (3, 12) and result.scores is None
    for row in range(3):
        wanted = written_out(writer, ids[row], jnp.asarray(mask[row]), 12, bos, eos)
        length = int(result.lengths[row])
        assert result.sequences[row, :length].tolist() == wanted
        assert (result.sequences[row, length:] == writer.config.pad_token_id).all()


@pytest.mark.parametrize("search", SEARCHES)
def test_ends_once_and_rows_are_independent(model: Model, search: str) -> None:
    """After its end a row has padding, and before it no end. Other rows, and what stands at padding, do not matter."""
    options: dict[str, Any] = dict(max_length=12) | FREE | SEARCHES[search]
    inputs = ragged_inputs(model.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    result = generate(model, ids, mask, **options)
    for tokens, length in zip(result.sequences.tolist(), result.lengths.tolist(), strict=True):
        assert tokens[length:] == [1] * (12 - length)
        assert 2 not in tokens[1 : length - 1]
        assert tokens[length - 1] == 2 or length == 12
    if search == "greedy":
        assert len(set(result.lengths.tolist())) > 1  # the rows end at different places: the above says something

    other_ids, other_mask = np.roll(ids, 3), np.ones_like(mask)
    other_ids[1], other_mask[1] = np.where(mask[1], ids[1], 50), mask[1]
    other = generate(model, other_ids, other_mask, **options)
    np.testing.assert_array_equal(other.sequences[1], result.sequences[1])
    assert (other.sequences != result.sequences).any()
    if result.scores is not None and other.scores is not None:
        np.testing.assert_allclose(other.scores[1], result.scores[1], rtol=1e-6)


def test_padding_is_no_token_of_the_source(model: Model) -> None:
    """PyTorch rewards and bars padding too, where options speak of the source's tokens."""
    inputs = ragged_inputs(model.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    options: dict[str, Any] = (
        dict(max_length=12, encoder_repetition_penalty=30.0, encoder_no_repeat_ngram_size=3) | FREE
    )
    result = generate(model, ids, mask, **options)
    garbage = np.where(mask, ids, np.arange(60, 71))
    np.testing.assert_array_equal(generate(model, garbage, mask, **options).sequences, result.sequences)
    assert (result.sequences != write(model).sequences).any()


@pytest.mark.parametrize("search", ["beams", pytest.param("sampling", marks=pytest.mark.slow)])
def test_a_row_alone_and_with_more_padding(model: Model, search: str) -> None:
    inputs = ragged_inputs(model.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    options: dict[str, Any] = dict(max_length=12) | FREE | SEARCHES[search]
    together = generate(model, ids, mask, **options)
    longer = generate(model, ids, mask, pad_to_multiple_of=13, **options)
    np.testing.assert_array_equal(longer.sequences, together.sequences)
    alone = generate(model, ids[0], mask[0], **options)  # draws are by row, and this is row 0 in both
    assert alone.sequences.shape == (12,)
    np.testing.assert_array_equal(alone.sequences, together.sequences[0])


def test_one_beam_is_greedy(model: Model) -> None:
    inputs = ragged_inputs(model.config)
    ids, mask = jnp.asarray(inputs["input_ids"]), jnp.asarray(inputs["attention_mask"]) != 0
    ending = EndAndPadding(jnp.asarray(12), jnp.array([2]), jnp.asarray(1))
    found = beam_search(
        model,
        ModelInputs(jnp.full((3, 1), 2), None, ids, None, mask),
        (),
        jnp.zeros(()),
        PyTorchRules(BeamSettings(ending, jnp.ones(()), True)),
        ending,
        num_beams=1,
        num_groups=1,
        num_return_sequences=1,
        buffer=12,
        key=None,
        output_scores=False,
        output_logits=False,
    )
    tokens = jnp.where(found.tokens[:, 0] < 0, model.config.pad_token_id, found.tokens[:, 0])
    np.testing.assert_array_equal(tokens, write(model).sequences)


def told_by_the_prefix(logits: Any, tokens: Any, length: Any) -> Any:
    """Leaves one token possible, which the whole prefix decides: the weighted sum of its tokens."""
    real = tokens >= 0
    total = jnp.sum(jnp.where(real, tokens, 0) * jnp.cumsum(real, axis=-1), axis=-1)
    forced = 12 + total % (logits.shape[-1] - 12)
    return jnp.where(jnp.arange(logits.shape[-1]) == forced[..., None], 0.0, -jnp.inf)


@pytest.mark.parametrize("search", ["beams", "lookup", pytest.param("groups", marks=pytest.mark.slow)])
@pytest.mark.parametrize("prompted", [False, True])
def test_processors_see_exactly_the_prefix(model: Model, search: str, prompted: bool) -> None:
    ids = ragged_inputs(model.config)["input_ids"]
    given: dict[str, Any] = dict(max_length=10)
    starts = [[2]] * 3
    if prompted:
        prompt, mask = np.array([[2, 31, 32], [2, 33, 1], [1, 1, 2]]), np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1]])
        given = dict(decoder_input_ids=prompt, decoder_attention_mask=mask, max_new_tokens=9)
        starts = [[2, 31, 32], [2, 33], [2]]
    result = generate(model, ids, logits_processor=[told_by_the_prefix], **given, **FREE, **SEARCHES[search])
    for tokens, start in zip(result.sequences.tolist(), starts, strict=True):
        expected = list(start)
        for _ in range(9):
            total = sum(place * token for place, token in enumerate(expected, 1))
            expected.append(12 + total % (97 - 12))
        assert tokens[: len(expected)] == expected


@pytest.mark.parametrize("search", ["beams", *(pytest.param(s, marks=pytest.mark.slow) for s in ("greedy", "lookup"))])
def test_padded_prompts_go_on_as_they_would_alone(model: Model, search: str) -> None:
    inputs = ragged_inputs(model.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    options: dict[str, Any] = dict(max_new_tokens=8) | FREE | SEARCHES[search]
    prompts, prompt_mask = np.array([[2, 30, 31], [2, 40, 9], [9, 2, 41]]), np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1]])
    together = generate(model, ids, mask, decoder_input_ids=prompts, decoder_attention_mask=prompt_mask, **options)
    alone = generate(
        model, ids[1:], mask[1:], decoder_input_ids=np.array([[40], [41]]), **options
    )  # the start token is put before them
    for row, length in enumerate(alone.lengths.tolist()):
        assert length == together.lengths[row + 1]
        np.testing.assert_array_equal(together.sequences[row + 1, :length], alone.sequences[row, :length])
        assert (together.sequences[row + 1, length:] == 1).all()
    assert together.sequences[0, :3].tolist() == [2, 30, 31]


def test_a_decoder_alone(causal: bart_eqx.BartForCausalLM) -> None:
    prompt = np.array([[5, 30, 31, 32], [5, 40, 1, 1]])
    together = generate(causal, prompt, max_new_tokens=8, **FREE)
    for row, length in ((0, 4), (1, 2)):
        tokens = prompt[row, :length].tolist()
        cache = causal.init_cache(1, max_length=12)
        out, cache = eqx.filter_jit(causal)(np.array([tokens]), cache=cache)
        for _ in range(8):
            tokens.append(int(jnp.argmax(out.logits[0, -1])))
            if tokens[-1] == causal.config.eos_token_id:
                break
            out, cache = eqx.filter_jit(causal)(np.array([tokens[-1:]]), cache=cache)
        assert together.sequences[row, : len(tokens)].tolist() == tokens
    states = jax.random.normal(KEY, (2, 5, 30))
    masked = np.array([[1, 1, 1, 0, 0]] * 2)
    written = [
        generate(causal, encoder_outputs=encoded, encoder_attention_mask=mask, max_new_tokens=8, **FREE).sequences
        for encoded, mask in (
            (BaseModelOutput(states), masked),
            (BaseModelOutput(states.at[:, 3:].set(9.0)), masked),
            (BaseModelOutput(states.at[:, 2:].set(9.0)), masked),
        )
    ]
    assert (written[0][:, 0] == causal.config.bos_token_id).all()
    np.testing.assert_array_equal(written[0], written[1])
    assert (written[0] != written[2]).any()
    with pytest.raises(ValueError, match="takes its prompt as `input_ids`"):
        generate(causal, prompt, decoder_input_ids=prompt)


def test_encoder_outputs_in_place_of_tokens(model: Model) -> None:
    inputs = ragged_inputs(model.config)
    encoded = eqx.filter_jit(model.encode)(inputs["input_ids"], inputs["attention_mask"])
    before = np.asarray(encoded.last_hidden_state)
    result = generate(
        model, encoder_outputs=encoded, attention_mask=inputs["attention_mask"], max_length=12, num_beams=3, **FREE
    )
    np.testing.assert_array_equal(result.sequences, write(model, num_beams=3).sequences)
    np.testing.assert_array_equal(encoded.last_hidden_state, before)
    with pytest.raises(ValueError, match="Give `input_ids` as well as `encoder_outputs`"):
        generate(model, encoder_outputs=encoded, encoder_no_repeat_ngram_size=2)
    with pytest.raises(ValueError, match="Give `input_ids`, or `encoder_outputs`"):
        generate(model)


def test_scores_add_up(model: Model) -> None:
    """A beam's score is the sum of what its tokens were chosen for, along its ancestors."""
    result = write(
        model, num_beams=3, num_return_sequences=2, length_penalty=0.7, output_scores=True, output_logits=True
    )
    assert result.step_scores is not None and result.scores is not None and result.beam_indices is not None
    assert result.step_scores.shape == (9, 11, 97) and result.beam_indices.shape == (6, 11)
    for row in range(6):
        steps = int(result.lengths[row]) - 1
        chosen = [
            float(result.step_scores[result.beam_indices[row, t], t, result.sequences[row, t + 1]])
            for t in range(steps)
        ]
        np.testing.assert_allclose(sum(chosen) / steps**0.7, result.scores[row], rtol=1e-5)
        assert (result.beam_indices[row, steps:] == -1).all()
    assert result.step_logits is not None
    log_probs = jax.nn.log_softmax(result.step_logits[:, :3])
    np.testing.assert_allclose(log_probs, result.step_scores[:, :3], atol=1e-5)


def test_attentions_of_the_chosen_tokens(model: Model) -> None:
    result = write(model, num_beams=3, num_return_sequences=2, output_attentions=True, output_hidden_states=True)
    assert result.cross_attentions is not None and result.decoder_hidden_states is not None
    assert len(result.cross_attentions) == 1 and result.cross_attentions[0] is not None
    assert result.cross_attentions[0].shape == (6, 3, 11, 11)
    inputs = ragged_inputs(model.config)
    ids, mask = (np.repeat(inputs[name], 2, axis=0) for name in ("input_ids", "attention_mask"))
    out: Any = eqx.filter_jit(model)(
        ids, mask, result.sequences[:, :-1], output_attentions=True, output_hidden_states=True
    )
    states = result.decoder_hidden_states
    for row, length in enumerate(result.lengths.tolist()):
        for ours, theirs in zip(result.cross_attentions, out.cross_attentions, strict=True):
            assert ours is not None
            np.testing.assert_allclose(ours[row, :, : length - 1], theirs[row, :, : length - 1], atol=1e-5)
        last = states[-1][row, : length - 1]
        np.testing.assert_allclose(last, out.decoder_hidden_states[-1][row, : length - 1], atol=1e-4)


def test_attentions_of_a_padded_prompt(model: Model) -> None:
    """In slots, padding first; in `sequences` it is last."""
    ids = ragged_inputs(model.config)["input_ids"][:1]
    options: dict[str, Any] = dict(max_new_tokens=4, output_attentions=True) | FREE
    prompt, mask = np.array([[2, 40, 9, 1, 1]]), np.array([[1, 1, 1, 0, 0]])
    padded = generate(model, ids, decoder_input_ids=prompt, decoder_attention_mask=mask, **options)
    alone = generate(model, ids, decoder_input_ids=prompt[:, :3], **options)
    np.testing.assert_array_equal(padded.sequences[:, :7], alone.sequences)
    assert padded.decoder_attentions is not None and alone.decoder_attentions is not None
    ours, wanted = padded.decoder_attentions[0], alone.decoder_attentions[0]
    assert ours is not None and wanted is not None
    steps = int(alone.lengths[0]) - 3
    assert (ours[..., :steps, :2] == 0).all()
    np.testing.assert_allclose(ours[..., :steps, 2:], wanted[..., :steps, :], atol=1e-6)


DRAWS = 20_000


def goodness_of_fit(counts: Any, probs: Any) -> float:
    """The p-value of a chi-square test over the tokens that are expected at least five times."""
    assert counts[probs == 0].sum() == 0
    enough = probs * DRAWS >= 5
    rest = max(1 - probs[enough].sum(), 0.0)
    observed, expected = counts[enough], probs[enough] * DRAWS
    if rest * DRAWS >= 5:
        observed, expected = np.append(observed, DRAWS - observed.sum()), np.append(expected, rest * DRAWS)
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


@pytest.mark.slow
def test_draws_have_the_processed_distribution(model: Model) -> None:
    options: dict[str, Any] = dict(
        do_sample=True, temperature=4.0, top_k=30, top_p=0.9, num_return_sequences=DRAWS, max_new_tokens=1
    )
    result = generate(model, np.array([5, 6, 7]), key=KEY, output_scores=True, **FREE, **options)
    assert result.step_scores is not None
    probs = np.asarray(jax.nn.softmax(result.step_scores[0, 0].astype(jnp.float32)), np.float64)
    assert 5 < (probs > 0).sum() < 30
    counts = np.bincount(np.asarray(result.sequences[:, 1]), minlength=97)
    assert goodness_of_fit(counts, probs) > 1e-3
    wrong = np.roll(probs, 1)  # the test can tell
    assert counts[wrong == 0].sum() > 0 or goodness_of_fit(counts, wrong) < 1e-9


def test_beams_are_drawn_without_replacement() -> None:
    totals = jax.random.normal(KEY, (1, 2, 9)).at[0, 0, 3].set(-jnp.inf)
    drawn = Continuations.best(jnp.tile(totals, (DRAWS, 1, 1)), 5, jax.random.key(1))
    flat = np.asarray(drawn.parents * 9 + drawn.ids)
    assert all(len(set(row)) == 5 for row in flat[:200].tolist())
    probs = np.asarray(jax.nn.softmax(totals.reshape(-1)), np.float64)
    assert goodness_of_fit(np.bincount(flat[:, 0], minlength=18), probs) > 1e-3
    # The second draw, given the first: as if the first had never been possible.
    first = int(probs.argmax())
    given = probs.copy()
    given[first] = 0
    second = np.bincount(flat[flat[:, 0] == first, 1], minlength=18)
    assert stats.chisquare(second[given > 0], (given / given.sum() * second.sum())[given > 0]).pvalue > 1e-3


def test_keys(model: Model) -> None:
    options = dict(do_sample=True, temperature=3.0)
    first = write(model, key=jax.random.key(1), **options)
    np.testing.assert_array_equal(write(model, key=jax.random.key(1), **options).sequences, first.sequences)
    assert (write(model, key=jax.random.key(2), **options).sequences != first.sequences).any()
    several = write(model, key=jax.random.key(1), num_return_sequences=2, **options)
    assert several.sequences.shape == (6, 12)
    assert (several.sequences[0] != several.sequences[1]).any()
    flat = write(model, key=jax.random.key(1), do_sample=True, temperature=100.0, min_length=12, top_k=0)
    assert all(len(set(row)) > 6 for row in flat.sequences.tolist())  # each step draws anew
    with pytest.raises(ValueError, match="Sampling draws from `key`"):
        write(model, **options)


@pytest.mark.parametrize("search", ["sampling", pytest.param("greedy", marks=pytest.mark.slow)])
def test_streams_what_generate_writes(model: Model, search: str) -> None:
    inputs = ragged_inputs(model.config)
    options: dict[str, Any] = dict(max_length=12) | FREE | SEARCHES[search]
    whole = write(model, **SEARCHES[search])
    tokens = list(stream(model, inputs["input_ids"], inputs["attention_mask"], **options))
    assert all(token.shape == (3,) for token in tokens)
    assert len(tokens) == int(whole.lengths.max()) - 1
    np.testing.assert_array_equal(np.stack(tokens, axis=1), whole.sequences[:, 1 : 1 + len(tokens)])


def test_a_request_has_the_arguments_of_generate(model: Model) -> None:
    """`stream` has them from there: names and defaults. What is no argument is an option, `options` as well."""
    parameters = list(inspect.signature(generate).parameters.values())[:-1]
    fields = [field for field in dataclasses.fields(Request) if field.name != "options"]
    assert [p.name for p in parameters] == [field.name for field in fields]
    assert [p.default for p in parameters[1:]] == [field.default for field in fields[1:]]
    for name in ("max_lenght", "options"):
        unknown: dict[str, Any] = {name: 3}
        for call in (generate, stream):
            with pytest.raises(TypeError, match=f"There is no option `{name}`"):
                call(model, np.array([5, 6]), **unknown)


def test_a_stream_checks_at_once(model: Model) -> None:
    with pytest.raises(ValueError, match="one by one"):
        stream(model, np.array([5, 6]), num_beams=2)
    with pytest.raises(ValueError, match="tokens and nothing else"):
        stream(model, np.array([5, 6]), output_scores=True)


def test_what_compiles(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers and token ids do not; another mode does, and so does another shape that is not rounded up."""

    def compilations(**options: Any) -> int:
        caplog.clear()
        write(model, **(dict(pad_to_multiple_of=14) | options))
        return sum("Compiling" in record.message for record in caplog.records)

    with caplog.at_level(logging.INFO, logger="bart_eqx.generation"):
        sampled = dict(do_sample=True, key=KEY, repetition_penalty=1.2, bad_words_ids=[[5]])
        compilations(temperature=0.7, top_p=0.8, max_length=12, **sampled)
        sampled |= dict(repetition_penalty=1.7, bad_words_ids=[[7]], key=jax.random.key(5))
        assert compilations(temperature=1.3, top_p=0.3, max_length=9, **sampled) == 0
        assert compilations(max_length=9, **sampled) == 1  # no temperature, no top_p
        compilations(num_beams=3, length_penalty=1.0, max_length=12)
        assert compilations(num_beams=3, length_penalty=-2.0, max_length=8) == 0


def test_processors_that_compile(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """Every function made anew; not one that is defined once, nor a module with other arrays."""

    class Bias(eqx.Module):
        bias: Array

        def __call__(self, logits: Array, tokens: Array, length: Array) -> Array:
            return logits + self.bias

    def compilations(processor: Any) -> int:
        caplog.clear()
        write(model, max_length=5, logits_processor=[processor])
        return sum("Compiling" in record.message for record in caplog.records)

    def once(logits: Array, tokens: Array, length: Array) -> Array:
        return 2 * logits

    with caplog.at_level(logging.INFO, logger="bart_eqx.generation"):
        assert [compilations(once) for _ in range(2)] == [1, 0]
        assert [compilations(Bias(jnp.full(97, float(value)))) for value in range(2)] == [1, 0]
        assert [compilations(lambda logits, tokens, length: 2 * logits) for _ in range(2)] == [1, 1]


def test_nothing_small_compiles(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    """Settings, tokens and results are no programs of their own, of which a start would have to wait for each."""
    source = np.arange(5, 5 + 3 * 17).reshape(1, 3, 17) % 50  # shapes that no other test has
    options: dict[str, Any] = dict(
        bad_words_ids=[[7], [8], [9], [7, 8, 9]], forced_eos_token_id=[2, 5, 6], repetition_penalty=1.2
    )
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        generate(model, source, max_length=11, num_beams=2, num_return_sequences=2, **FREE | options)
    compiled = [record.message for record in caplog.records if record.message.startswith("Compiling jit")]
    assert len(compiled) == 2 and "jit(beam_search)" in compiled[0] and "jit(_assemble)" in compiled[1]


@pytest.mark.parametrize("search", ["greedy", "beams", "sample"])
def test_a_second_call_writes_no_checks(model: Model, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """beartype takes a millisecond to write a function's checks, and an inner function is a new one in each call."""
    searches: dict[str, Any] = dict(
        greedy={}, beams=dict(num_beams=2), sample=dict(do_sample=True, key=jax.random.key(0))
    )
    options = searches[search]
    call = lambda: bart_eqx.generate(model, np.array([[0, 9, 8, 2]]), max_length=5, **options)
    call()
    written = []
    checked = lazy_beartype.beartype
    decorator = lambda conf: lambda function: written.append(function.__qualname__) or checked(conf=conf)(function)
    monkeypatch.setattr(lazy_beartype, "beartype", decorator)
    call()
    assert written == []


def test_rounding_up_is_not_seen(model: Model) -> None:
    """Nothing that is returned is longer than it would be, nor is it different."""
    options = dict(num_beams=2, max_length=11, output_scores=True, output_attentions=True, output_hidden_states=True)
    exact, rounded = write(model, **options), write(model, pad_to_multiple_of=8, **options)
    assert jax.tree.map(jnp.shape, exact) == jax.tree.map(jnp.shape, rounded)
    np.testing.assert_array_equal(exact.sequences, rounded.sequences)
    np.testing.assert_array_equal(exact.beam_indices, rounded.beam_indices)
    assert exact.step_scores is not None and rounded.step_scores is not None
    np.testing.assert_allclose(exact.step_scores, rounded.step_scores, atol=1e-5)
    with pytest.raises(ValueError, match="`pad_to_multiple_of` must be at least 1. Got 0"):
        write(model, pad_to_multiple_of=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_every_type_of_token_ids(model: Model, causal: bart_eqx.BartForCausalLM, dtype: Any) -> None:
    """Also one that has no -1."""
    inputs = ragged_inputs(model.config)
    lookup = generate(model, inputs["input_ids"].astype(dtype), max_length=12, prompt_lookup_num_tokens=3, **FREE)
    np.testing.assert_array_equal(lookup.sequences, write(model).sequences)
    prompt = np.array([[5, 30, 31, 32], [5, 40, 1, 1]])
    result = generate(causal, prompt.astype(dtype), max_new_tokens=8, **FREE)
    np.testing.assert_array_equal(result.sequences, generate(causal, prompt, max_new_tokens=8, **FREE).sequences)


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
def test_64_bit(search: str) -> None:
    with precision(np.float64):
        wide = ending(random_model(Model, configured("unequal", decoder_layers=1), np.float64, seed=2))
        key = dict(key=jax.random.key(0)) if search == "sampling" else {}
        result = write(wide, **(SEARCHES[search] | key))
    assert result.sequences.dtype == jnp.int32
    if result.scores is not None:
        assert result.scores.dtype == jnp.float64
    if search != "sampling":  # 64 bits draw other noise
        narrow = ending(random_model(Model, configured("unequal", decoder_layers=1), seed=2))
        np.testing.assert_array_equal(result.sequences, write(narrow, **SEARCHES[search]).sequences)


def test_inside_jit(model: Model) -> None:
    inputs = ragged_inputs(model.config)
    words = SEARCHES["words"]
    inside = eqx.filter_jit(lambda ids, mask: generate(model, ids, mask, max_length=12, **words, **FREE).sequences)
    np.testing.assert_array_equal(
        inside(inputs["input_ids"], inputs["attention_mask"]), write(model, **words).sequences
    )


@pytest.mark.parametrize(
    ("name", "values", "options"),
    [
        ("temperature", [0.3, 3.0], dict(do_sample=True, key=KEY)),
        ("top_p", [0.1, 0.9], dict(do_sample=True, key=KEY, temperature=3.0)),
        ("length_penalty", [-3.0, 3.0], dict(num_beams=3)),
        pytest.param("min_p", [0.01, 0.9], dict(do_sample=True, key=KEY, temperature=3.0), marks=pytest.mark.slow),
        pytest.param("repetition_penalty", [0.2, 5.0], dict(), marks=pytest.mark.slow),
        pytest.param("encoder_repetition_penalty", [0.2, 5.0], dict(), marks=pytest.mark.slow),
        pytest.param(
            "diversity_penalty",
            [0.1, 9.0],
            dict(num_beams=4, num_beam_groups=2, num_return_sequences=4),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_traced_settings(model: Model, name: str, values: list[float], options: dict[str, Any]) -> None:
    ids = ragged_inputs(model.config)["input_ids"]
    call = lambda value: generate(model, ids, max_length=9, **{name: value}, **options, **FREE).sequences
    apart = [call(value) for value in values]
    assert (apart[0] != apart[1]).any()
    inside = eqx.filter_jit(call)
    for value, wanted in zip(values, apart, strict=True):
        np.testing.assert_array_equal(inside(jnp.asarray(value)), wanted)
    if name == "temperature":
        np.testing.assert_array_equal(jax.vmap(call)(jnp.array(values)), apart)


def test_settings_that_cannot_be_traced(model: Model) -> None:
    for name in ("max_length", "num_beams", "top_k", "forced_bos_token_id"):
        with pytest.raises(TypeError, match=f"`{name}` is traced .* must be a plain value.*may be traced: temperature"):
            jax.jit(lambda value, name=name: generate(model, np.array([5, 6]), **{name: value}).sequences)(3)
    with pytest.raises(ValueError, match="`temperature` must be a single number. Got float32\\[2\\]"):
        jax.jit(lambda t: generate(model, np.array([5, 6]), temperature=t).sequences)(jnp.ones(2))
    with pytest.raises(TypeError, match="`temperature` is traced .* a GenerationConfig holds plain values"):
        jax.jit(lambda t: GenerationConfig().override(temperature=t).max_length)(0.5)


STRICT: dict[str, dict[str, Any]] = SEARCHES | {
    "flax": dict(num_beams=3, semantics="flax"),
    "drawn beams": dict(num_beams=3, do_sample=True, key=KEY, top_k=5, top_p=0.9, typical_p=0.9, min_p=0.1, top_h=0.5),
    "processors": dict(
        repetition_penalty=1.2,
        encoder_repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        encoder_no_repeat_ngram_size=2,
        bad_words_ids=[[5], [6, 7]],
        min_length=3,
        forced_bos_token_id=5,
        suppress_tokens=[9],
        exponential_decay_length_penalty=(3, 1.2),
        renormalize_logits=True,
        remove_invalid_values=True,
    ),
}


@pytest.mark.parametrize(
    "search",
    [
        name if name in ("greedy", "sampling", "beams") else pytest.param(name, marks=pytest.mark.slow)
        for name in STRICT
    ],
)
def test_strict_promotion(model: Model, search: str) -> None:
    """No search promotes a dtype implicitly; a length of its own, so that it is traced."""
    inputs = ragged_inputs(model.config)
    options: dict[str, Any] = STRICT[search] | FREE
    wanted = generate(model, inputs["input_ids"], inputs["attention_mask"], max_length=10, **options).sequences
    jax.clear_caches()
    with jax.numpy_dtype_promotion("strict"):
        result = generate(model, inputs["input_ids"], inputs["attention_mask"], max_length=10, **options)
        np.testing.assert_array_equal(result.sequences, wanted)
        if search in ("greedy", "sampling"):
            tokens = stream(model, inputs["input_ids"], inputs["attention_mask"], max_length=10, **options)
            assert len(list(tokens)) == int(result.lengths.max()) - 1


def test_only_allowed_sequences(model: Model) -> None:
    allowed = [[20, 21, 22], [20, 23], [24], [20, 21]]
    result = write(model, prefix_allowed_tokens=allowed, num_beams=3)
    for tokens, length in zip(result.sequences.tolist(), result.lengths.tolist(), strict=True):
        assert tokens[1 : length - 1] in allowed and tokens[length - 1] == 2
    per_row = [[[30, 31]], [[32]], [[33, 34, 35]]]
    result = write(model, prefix_allowed_tokens=per_row)
    assert result.sequences[:, 1:5].tolist() == [[30, 31, 2, 1], [32, 2, 1, 1], [33, 34, 35, 2]]
    with pytest.raises(ValueError, match="2 sets of sequences for 3 rows"):
        write(model, prefix_allowed_tokens=per_row[:2])
    with pytest.raises(ValueError, match="at least one sequence, and no empty one"):
        write(model, prefix_allowed_tokens=[[5], []])
    with pytest.raises(ValueError, match=r"has \[500\], but the model's tokens are 0 to 96"):
        write(model, prefix_allowed_tokens=[[5], [500]])
    with pytest.raises(ValueError, match="is a list of token sequences"):
        write(model, prefix_allowed_tokens=[5, 6])


# What bars a sequence, and what is said: the setting, and what to do.
BARRED: list[tuple[Any, dict[str, Any], str]] = [
    ([[2, 10, 11, 2], [2, 20, 2]], dict(), r"\[2, 10, 11, 2\].*repeats the prompt's first token, 2, .*Leave that"),
    ([[30, 31], [10, 2, 11, 2]], dict(), r"\[10, 2, 11, 2\].*eos_token_id=2 ends it at its token 1"),
    ([[10, 7, 11]], dict(eos_token_id=[2, 7]), "eos_token_id=7 ends it at its token 1"),
    ([[20] * 11], dict(), "with the prompt and its end it has 13 tokens, and max_length=12. Raise"),
    ([[20, 21, 22]], dict(max_length=None, max_new_tokens=3), "it has 5 tokens, and max_length=4. Raise"),
    ([[20, 21]], dict(decoder_input_ids=np.array([[2] + [5] * 9] * 3)), "it has 13 tokens"),
    ([[20, 21], [24, 25]], dict(bad_words_ids=[[24]]), r"\[24, 25\].*`bad_words_ids` bars \[24\]"),
    ([[20, 21, 24]], dict(bad_words_ids=[[21, 24]]), r"`bad_words_ids` bars \[21, 24\]"),
    ([[20, 21]], dict(bad_words_ids=[[2, 20]]), r"`bad_words_ids` bars \[2, 20\]"),  # after the start token
    ([[20, 21]], dict(sequence_bias=[[[20, 21], -np.inf]]), r"`sequence_bias` bars \[20, 21\]"),
    ([[20, 21]], dict(suppress_tokens=[21, 90]), "`suppress_tokens` bars 21"),
    ([[20, 21]], dict(suppress_tokens=[2]), "`suppress_tokens` bars 2"),
    ([[20, 21]], dict(begin_suppress_tokens=[20]), "`begin_suppress_tokens` bars 20"),
    ([[7, 20]], dict(begin_suppress_tokens=[20], forced_bos_token_id=7), "`begin_suppress_tokens` bars 20"),
    ([[20, 21]], dict(min_length=4), "without its end it has 3 tokens with the prompt, and min_length=4. Lower"),
    ([[20, 21]], dict(min_new_tokens=3), "it has 2 tokens before its end, and min_new_tokens=3. Lower"),
    ([[20, 21]], dict(forced_bos_token_id=5), "`forced_bos_token_id` makes its token 0 5.*forced_bos_token_id=None"),
    (
        [[20, 21, 2]],
        dict(max_length=4, forced_eos_token_id=[7, 8], eos_token_id=[2, 7, 8]),
        "`forced_eos_token_id` makes its token 2 7 or 8",
    ),
    ([[20, 21, 20, 21]], dict(no_repeat_ngram_size=2), r"no_repeat_ngram_size=2 bars a repetition of \[20, 21\]"),
    ([[20, 21]], dict(no_repeat_ngram_size=1), r"no_repeat_ngram_size=1 bars a repetition of \[2\]"),  # the end
    ([[20, 21]], dict(num_beams=3, num_return_sequences=2), "has 1: num_return_sequences=2 must not be more than 1"),
    (
        [[20], [20, 2], [21]],  # two of which are one
        dict(num_beams=4, num_return_sequences=3),
        "has 2: num_return_sequences=3 must not be more than 2",
    ),
    (
        [[20]],
        dict(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, num_return_sequences=3),
        "must not be more than 2",
    ),
    ([[[20]], [[20]], [[20], [21, 2, 22]]], dict(), r"of row 2 has \[21, 2, 22\]"),
    ([[40, 41], [20]], dict(num_beams=2, force_words_ids=[[40, 41]]), r"\[20\].*`force_words_ids` needs \[40, 41\]"),
]


@pytest.mark.parametrize(("allowed", "options", "message"), BARRED, ids=range(len(BARRED)))
def test_an_allowed_sequence_that_cannot_be_generated(
    model: Model, allowed: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"`prefix_allowed_tokens`.*{message}") as raised:
        write(model, prefix_allowed_tokens=allowed, **options)
    assert len(str(raised.value)) < 600


def test_allowed_sequences_and_the_source(model: Model) -> None:
    """An n-gram of the source bars a sequence in its row; where the source is traced, the result says so."""
    ids = ragged_inputs(model.config)["input_ids"][:1]
    pair = ids[0, 3:5].tolist()
    options: dict[str, Any] = dict(
        prefix_allowed_tokens=[[*pair, 20]], encoder_no_repeat_ngram_size=2, max_length=12, **FREE
    )
    with pytest.raises(ValueError, match="encoder_no_repeat_ngram_size=2 bars a repetition of the source's"):
        generate(model, ids, **options)
    traced = eqx.filter_jit(lambda ids: generate(model, ids, **options).finite)
    assert not traced(ids).any() and traced(ids + 1).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(max_length=4),  # to the last slot
        dict(max_length=4, forced_eos_token_id=2, min_length=4),  # which is forced, whatever else bars it
        dict(forced_bos_token_id=20, bad_words_ids=[[20]]),
        dict(forced_bos_token_id=None, decoder_input_ids=np.array([[2, 20]] * 3), max_length=5),
        dict(bad_words_ids=[[2], [21, 20], [5, 20]], suppress_tokens=[30], begin_suppress_tokens=[21]),
        dict(min_length=3, min_new_tokens=None, no_repeat_ngram_size=2),
        dict(num_beams=3),
        dict(num_beams=2, force_words_ids=[[21]]),
    ],
)
def test_an_allowed_sequence_to_the_brim(model: Model, options: dict[str, Any]) -> None:
    """Settings that leave it just possible."""
    result = write(model, prefix_allowed_tokens=[[20, 21]], **options)
    prompt = [2, 20] if "decoder_input_ids" in options else [2]
    assert result.finite.all()
    assert result.sequences[:, : len(prompt) + 3].tolist() == [[*prompt, 20, 21, 2]] * 3


def test_a_row_outside_its_allowed_sequences(model: Model) -> None:
    """What cannot be seen before the search is seen after it: a custom processor that brings another token back, or
    that leaves fewer sequences than beams return."""

    def elsewhere(logits: Array, tokens: Array, length: Array) -> Array:
        second = jnp.arange(logits.shape[0])[:, None, None] == 1
        return jnp.where(second & (jnp.arange(97) == 50) & (length == 1), 9.0, logits)

    result = write(model, prefix_allowed_tokens=[[20, 21]], logits_processor=[elsewhere])
    np.testing.assert_array_equal(result.finite, [True, False, True])

    def bar(logits: Array, tokens: Array, length: Array) -> Array:
        return jnp.where(jnp.arange(97) == 21, -jnp.inf, logits)

    result = write(
        model, prefix_allowed_tokens=[[20], [21]], logits_processor=[bar], num_beams=2, num_return_sequences=2
    )
    np.testing.assert_array_equal(result.finite, [True, False] * 3)
    assert result.sequences[::2, :3].tolist() == [[2, 20, 2]] * 3


def test_fewer_continuations_than_beams(model: Model) -> None:
    """Rows that continue a beam which was masked out, with scores of -1e9, are said to mean nothing."""
    result = write(model, num_beams=3, num_return_sequences=2, forced_bos_token_id=5, max_length=2)
    assert result.sequences.tolist() == [[2, 5]] * 6 and result.scores is not None
    np.testing.assert_array_equal(result.finite, result.scores > -1e6)
    np.testing.assert_array_equal(result.finite, [True, False] * 3)


def test_forced_words_occur(model: Model) -> None:
    result = write(model, **SEARCHES["words"])
    for tokens in result.sequences.tolist():
        pairs = list(itertools.pairwise(tokens))
        assert (40, 41) in pairs and (50 in tokens or (60, 61) in pairs)


def test_half_precision(model: Model) -> None:
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, model)
    result = write(half, output_scores=True, num_beams=2)
    assert result.step_scores is not None and result.step_scores.dtype == jnp.float32
    assert result.sequences.shape == (3, 12)


def test_the_mask_is_inferred_from_padding(model: Model, config: bart_eqx.BartConfig) -> None:
    inputs = ragged_inputs(config)
    given = write(model)
    inferred = generate(model, inputs["input_ids"], max_length=12, **FREE)
    np.testing.assert_array_equal(inferred.sequences, given.sequences)
    unmasked = generate(model, inputs["input_ids"], np.ones((3, 11), int), max_length=12, **FREE)
    assert (unmasked.sequences != given.sequences).any()
    flax = generate(model, inputs["input_ids"], max_length=12, semantics="flax", **FREE)  # which infers nothing
    np.testing.assert_array_equal(flax.sequences, unmasked.sequences)


def test_lookup_is_greedy_and_calls_the_model_less() -> None:
    """On the demo checkpoint: numbers that stand in words already are copied, and are in the source to be looked up."""
    demo = bart_eqx.from_pretrained("demo", Model)
    tokenizer = Tokenizer.from_file(str(Path(bart_eqx.__file__).parent / "demo" / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=1, length=20)
    calls, tokens = {}, {}
    for kind, write_number in (("copied", lambda n: num2words(n).replace(",", "")), ("spelt", str)):
        for n in (7, 40217, 100000, 734512, 555666):
            ids = np.array([tokenizer.encode(write_number(n)).ids])
            greedy = generate(demo, ids)
            lookup = generate(demo, ids, prompt_lookup_num_tokens=8)
            np.testing.assert_array_equal(lookup.sequences, greedy.sequences)
            np.testing.assert_array_equal(lookup.lengths, greedy.lengths)
            assert lookup.model_calls is not None
            calls[kind] = calls.get(kind, 0) + int(lookup.model_calls[0])
            tokens[kind] = tokens.get(kind, 0) + int(greedy.lengths[0]) - 1
    assert tokens["copied"] >= 3 * calls["copied"]
    assert tokens["spelt"] >= calls["spelt"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["greedy", "greedy_forced", "greedy_biased", "greedy_source", "greedy_prompted"])
def test_lookup_is_greedy_in_every_stored_case(family: str) -> None:
    """With every processor at every position, and drafts that are often wrong."""
    for case in cases("transformers5"):
        if case["family"] == family:
            assert mismatch(case, prompt_lookup_num_tokens=4, max_matching_ngram_size=1) is None


@pytest.mark.slow
@pytest.mark.optimised
def test_settings_of_bart_large_cnn_on_a_model_of_full_size() -> None:
    """Beams, lengths, penalties, n-grams and forced tokens of facebook/bart-large-cnn, from its own config.json."""
    fields = dict(
        num_beams=4,
        min_length=56,
        max_length=142,
        length_penalty=2.0,
        no_repeat_ngram_size=3,
        early_stopping=True,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    )
    config = bart_eqx.BartConfig.from_dict(fields)
    legacy = GenerationConfig.from_legacy_dict(fields, config)
    base = Model(config, generation_config=legacy, key=KEY)
    assert sum(x.size for x in jax.tree.leaves(eqx.filter(base, eqx.is_array))) == 139_420_416 + config.vocab_size
    ids = np.random.default_rng(0).integers(5, config.vocab_size, (1, 64))
    result = generate(base, ids)
    length = int(result.lengths[0])
    tokens = result.sequences[0, :length].tolist()
    assert result.sequences.shape == (1, 142) and result.scores is not None and np.isfinite(result.scores).all()
    assert tokens[:2] == [2, 0] and tokens[-1] == 2 and 57 <= length <= 142
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    assert len(set(triples)) == len(triples)


def test_lengths(model: Model) -> None:
    ids = np.array([5, 6, 7])
    shortest = generate(model, ids, max_length=2, forced_eos_token_id=2)
    assert shortest.sequences.tolist() == [2, 2] and shortest.lengths == 2
    shapes = lambda **options: eqx.filter_eval_shape(lambda: generate(model, ids, **options)).sequences.shape
    assert shapes() == (20,)
    assert shapes(max_new_tokens=3) == (4,)
    assert shapes(max_length=24) == (24,)  # the last token needs no position
    assert shapes(generation_config=GenerationConfig(max_length=5)) == (5,)
    assert shapes(num_beams=3, num_return_sequences=2) == (2, 20)
    ids = np.array([[ids, ids], [ids, ids]])
    assert shapes(num_beams=2, num_return_sequences=2, max_length=4) == (2, 4, 4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(max_lenght=4), TypeError, "no option `max_lenght`. Is it `max_length`"),
        (dict(max_length=1), ValueError, "at least 2"),
        (dict(max_length=25), ValueError, "at most 24 tokens. Got max_length=25"),
        (dict(min_length=9, max_length=8), ValueError, "`min_length` must not be more than `max_length`. Got 9 and 8"),
        (dict(min_new_tokens=20), ValueError, "at most 20 tokens cannot have at least 21"),
        (dict(max_length=8, max_new_tokens=8), ValueError, "say the same thing"),
        (dict(num_return_sequences=3), ValueError, "`num_return_sequences` must not be more than `num_beams`"),
        (dict(num_beams=2, num_return_sequences=3), ValueError, "Got 3 and 2"),
        (dict(num_beams=3, num_beam_groups=2, diversity_penalty=1.0), ValueError, "a multiple of `num_beam_groups`"),
        (dict(num_beams=4, num_beam_groups=2), ValueError, "go together"),
        (dict(force_words_ids=[[5]]), ValueError, "needs beam search"),
        (dict(num_beams=2, force_words_ids=[[5, 2]]), ValueError, "must not have the token that ends"),
        (dict(num_beams=2, force_words_ids=[[[5], [5, 6]]]), ValueError, "beginning of another"),
        (dict(prompt_lookup_num_tokens=3, num_beams=2), ValueError, "greedy search"),
        (dict(prompt_lookup_num_tokens=3, output_scores=True), ValueError, "keeps no scores"),
        (dict(temperature=0.0, do_sample=True), ValueError, "`temperature` must be more than 0. Got 0.0"),
        (dict(suppress_tokens=[2], forced_eos_token_id=2), ValueError, r"bars \[2\], which `forced_eos_token_id`"),
        (dict(bad_words_ids=[[5, 97]]), ValueError, r"`bad_words_ids` has \[97\], but the model's tokens are 0 to 96"),
        (dict(bad_words_ids=[[]]), ValueError, "has no token"),
        (dict(num_beams=2, force_words_ids=[[[5], []]]), ValueError, "has no token"),
        (dict(eos_token_id=[]), ValueError, "`eos_token_id` must be a token, or several"),
        (dict(forced_eos_token_id=[]), ValueError, "`forced_eos_token_id` must be"),
        (dict(sequence_bias=[[1.0, [5]]]), ValueError, "`sequence_bias` must be pairs"),
        (dict(eos_token_id=[2, 5], semantics="flax"), ValueError, "exactly one"),
        (dict(repetition_penalty=2.0, semantics="flax"), ValueError, "which ignore repetition_penalty"),
        (dict(stop_strings=["."]), ValueError, "`stop_strings=.*not implemented: .*bart_eqx.stream"),
        (dict(penalty_alpha=0.6), ValueError, "contrastive"),
        (dict(use_cache=False), ValueError, "how transformers runs"),
    ],
)
def test_refused(model: Model, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        generate(model, np.array([5, 6]), **options)


def test_what_has_no_effect_is_said(model: Model, causal: bart_eqx.BartForCausalLM) -> None:
    with pytest.warns(UserWarning, match="`temperature=0.5` has no effect without `do_sample=True`") as warned:
        write(model, temperature=0.5)
    assert warned[0].filename == __file__  # where it was asked for, and not in here
    with pytest.warns(UserWarning, match="`length_penalty=2.0` has no effect without `num_beams > 1`"):
        write(model, length_penalty=2.0)
    with pytest.warns(UserWarning, match="`key` has no effect without `do_sample=True`") as warned:
        write(model, key=KEY)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="`bos_token_id=5` has no effect on an encoder-decoder"):
        write(model, bos_token_id=5)
    with pytest.warns(UserWarning, match="`decoder_start_token_id=5` has no effect on a decoder alone"):
        generate(causal, np.array([5, 6]), decoder_start_token_id=5, max_length=4)
    # From a checkpoint it is only a setting that this call does not use.
    write(model, generation_config=GenerationConfig(temperature=0.5, length_penalty=2.0))


def test_bad_inputs(model: Model, causal: bart_eqx.BartForCausalLM) -> None:
    with pytest.raises(ValueError, match="Got 97"):
        generate(model, np.array([5, 97]))
    with pytest.raises(ValueError, match="all padding"):
        generate(model, np.array([5, 6]), decoder_input_ids=np.array([2, 6]), decoder_attention_mask=np.array([0, 0]))
    with pytest.raises(ValueError, match="none is left to generate. Raise"):
        generate(model, np.array([5, 6]), decoder_input_ids=np.arange(20), max_length=20)
    with pytest.raises(ValueError, match="`decoder_attention_mask` was given without `decoder_input_ids`"):
        generate(model, np.array([5, 6]), decoder_attention_mask=np.array([1]))
    with pytest.raises(ValueError, match="The batch or the source is empty"):
        generate(model, np.zeros((0, 5), int))
    with pytest.raises(ValueError, match="The batch or the source is empty"):
        generate(model, np.zeros((3, 0), int))
    encoded = BaseModelOutput(jnp.ones((3, 11, 30)))
    with pytest.raises(ValueError, match=r"are of \(3, 11\) tokens; ids or mask \(11, 3\)"):
        generate(model, None, np.ones((11, 3), int), encoder_outputs=encoded)
    with pytest.raises(ValueError, match=r"batch axes \(3,\), and others prompt \(2,\)"):
        generate(causal, np.ones((2, 4), int) * 5, encoder_outputs=encoded)
    with pytest.raises(ValueError, match="`attention_mask` was given without `input_ids`"):
        generate(causal, None, np.ones((3, 4), int), encoder_outputs=encoded)
    with pytest.raises(ValueError, match="`encoder_attention_mask` was given without `encoder_outputs`"):
        generate(causal, np.array([5, 6]), encoder_attention_mask=np.array([1]))


@pytest.mark.parametrize("call", [generate, stream])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            dict(input_ids=[[5, 6], [7, 8]]),
            TypeError,
            "`input_ids` must be a NumPy or JAX array of integers .*Got list",
        ),
        (dict(input_ids="a text"), TypeError, "Got str"),
        (dict(input_ids=np.array([5.0, 6.0])), TypeError, r"`input_ids` .*integers \[\*batch, src\]. Got float64\[2\]"),
        (dict(input_ids=np.array(5)), TypeError, r"Got int64\[\]"),
        (dict(attention_mask=[1, 1]), TypeError, "`attention_mask` must be .*Got list"),
        (dict(attention_mask=np.array([0.0, -1e9])), TypeError, "booleans or integers"),
        (dict(attention_mask=np.array([1, 1, 1])), ValueError, r"the shape of `input_ids`, \(2,\). Got \(3,\)"),
        (dict(decoder_input_ids=[2, 5]), TypeError, "`decoder_input_ids` must be .*Got list"),
        (
            dict(decoder_input_ids=np.array([2, 5]), decoder_attention_mask=np.array([1])),
            ValueError,
            "`decoder_attention_mask` must have the shape of `decoder_input_ids`",
        ),
        (dict(encoder_outputs=jnp.ones((2, 30))), TypeError, "what `model.encode` returns. Got float32"),
        (dict(generation_config=dict(max_length=5)), TypeError, "must be a GenerationConfig.*Got dict"),
        (dict(semantics="tensorflow"), ValueError, '"pytorch" or "flax". Got \'tensorflow\''),
        (
            dict(logits_processor=lambda logits, tokens, length: logits),
            TypeError,
            "a list of functions. Got function",
        ),
        (dict(pad_to_multiple_of=2.5), ValueError, "at least 1. Got 2.5"),
        (dict(do_sample=True, key=0), TypeError, "as from jax.random.key.*Got int"),
        (dict(do_sample=True, key=jax.random.split(KEY)), TypeError, "one JAX key"),
        (dict(model="bart"), TypeError, "Got str"),
    ],
)
def test_wrong_types_are_said_in_a_sentence(
    model: Model, call: Any, arguments: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        call(**(dict(model=model, input_ids=np.array([5, 6])) | arguments))
    assert len(str(raised.value)) < 600


def test_numpy_for_encoder_outputs(model: Model) -> None:
    """As `jax.device_get` leaves them."""
    inputs = ragged_inputs(model.config)
    encoded = eqx.filter_jit(model.encode)(inputs["input_ids"], inputs["attention_mask"])
    given = dict(attention_mask=inputs["attention_mask"], max_length=12, **FREE)
    on_host = generate(model, encoder_outputs=jax.device_get(encoded), **given)
    np.testing.assert_array_equal(on_host.sequences, write(model).sequences)


@pytest.mark.parametrize("call", [generate, lambda *args, **kwargs: list(stream(*args, **kwargs))])
@pytest.mark.parametrize("where", [lambda m: m.model.decoder.dropout, lambda m: m.model.encoder.layerdrop])
def test_training_mode(model: Model, call: Any, where: Any) -> None:
    drop = eqx.tree_at(lambda d: (d.p, d.inference), where(model), (0.1, False))
    training = eqx.tree_at(where, model, drop)
    with pytest.raises(ValueError, match="training mode.*`equinox.nn.inference_mode"):
        call(training, np.array([5, 6]), max_length=4)


def test_an_encoder_decoder_that_says_it_is_none() -> None:
    """A decoder alone may say either: its config may come from the whole model."""
    other = random_model(Model, configured("unequal", decoder_layers=1, is_encoder_decoder=False))
    with pytest.raises(ValueError, match="says is_encoder_decoder=False, and the model is an encoder-decoder"):
        generate(other, np.array([5, 6]))


@pytest.mark.parametrize("search", [dict(), dict(num_beams=3)])
def test_scores_that_are_nan_end(model: Model, search: dict) -> None:
    """Weights that are NaN are refused when they are read; scores that are NaN all the same end with the length."""
    broken = eqx.tree_at(lambda m: m.final_logits_bias, model, model.final_logits_bias * jnp.nan)
    result = bart_eqx.generate(broken, np.full((2, 3), 5), max_length=6, **search)
    assert result.sequences.shape == (2, 6) and not result.finite.any()


@pytest.mark.parametrize("search", [dict(), dict(num_beams=2), dict(prompt_lookup_num_tokens=2)])
def test_a_row_whose_scores_are_nan(model: Model, search: dict) -> None:
    """Only it is told, and not once it has ended."""
    source = np.full((2, 3), 5)

    def spoil(logits: Array, tokens: Array, length: Array) -> Array:
        second = jnp.arange(logits.shape[0])[:, None, None] == 1
        return jnp.where(second & (length == 3), jnp.nan, logits)

    def end(logits: Array, tokens: Array, length: Array) -> Array:
        """The second row ends at once, and the first does not."""
        second = jnp.arange(logits.shape[0])[:, None, None] == 1
        is_eos = jnp.arange(logits.shape[-1]) == 2
        return jnp.where(jnp.where(second, ~is_eos & (length == 1), is_eos), -jnp.inf, logits)

    spoilt = functools.partial(generate, model, source, max_length=6, **search)
    np.testing.assert_array_equal(spoilt(logits_processor=[spoil]).finite, [True, False])
    if "num_beams" not in search:  # all beams of a row do not end at once
        ended = spoilt(logits_processor=[end, spoil], **FREE)  # `end` would bar the forced one
        assert ended.finite.all() and ended.lengths[1] == 2 < 4 <= ended.lengths[0]
    with pytest.raises(FloatingPointError, match="scores are NaN or infinite"):
        list(stream(model, source, max_length=6, logits_processor=[spoil]))


@pytest.mark.parametrize("search", [*SEARCHES, "allowed"])
def test_a_row_in_which_every_token_is_barred(model: Model, search: str) -> None:
    """Only that row means nothing. Beams that can go on make up for one that cannot."""
    options: dict[str, Any] = SEARCHES.get(search, dict(prefix_allowed_tokens=[[20, 21, 22], [20, 21, 23]])) | FREE
    source = np.full((2, 3), 5)

    def bar(logits: Array, tokens: Array, length: Array) -> Array:
        second = jnp.arange(logits.shape[0])[:, None, None] == 1
        return jnp.where(second & (length == 3), -jnp.inf, logits)

    def bar_a_beam(logits: Array, tokens: Array, length: Array) -> Array:
        return jnp.where((jnp.arange(logits.shape[1]) == 1)[:, None] & (length == 3), -jnp.inf, logits)

    result = generate(model, source, max_length=6, min_length=4, logits_processor=[bar], **options)
    np.testing.assert_array_equal(result.finite, [True, False])
    if search in ("beams", "groups"):
        assert generate(model, source, max_length=6, logits_processor=[bar_a_beam], **options).finite.all()
    if search in ("greedy", "sampling", "allowed"):
        with pytest.raises(FloatingPointError, match="mask out every token"):
            list(stream(model, source, max_length=6, min_length=4, logits_processor=[bar], **options))


@pytest.mark.parametrize("search", ["beams", pytest.param("groups", marks=pytest.mark.slow)])
def test_a_hypothesis_that_is_barred(model: Model, search: str) -> None:
    """Of the first tokens, 20, 21 and 22 are possible; after that only 20 can go on, with 30."""

    def one(logits: Array, tokens: Array, length: Array) -> Array:
        vocab = jnp.arange(97)
        second = (vocab == 30) & (tokens[..., 1:2] == 20)
        return jnp.where(jnp.where(length == 1, (vocab >= 20) & (vocab <= 22), second), logits, -jnp.inf)

    more: dict[str, Any] = dict(num_return_sequences=3, logits_processor=[one], max_length=5)
    options = SEARCHES[search] | more | FREE
    result = generate(model, np.array([5, 6]), **options)
    real = (result.sequences == jnp.array([2, 20, 30, 30, 30])).all(axis=-1)
    assert real[0] and not real[2]
    np.testing.assert_array_equal(result.finite, real)


def test_numbers_of_other_kinds(model: Model) -> None:
    """NumPy's and JAX's are Python's; `None` leaves an option as it is, or turns it off."""
    result = write(model, max_length=np.int64(12), suppress_tokens=np.array([5, 6]), length_penalty=None, top_k=None)
    np.testing.assert_array_equal(result.sequences, write(model, suppress_tokens=[5, 6]).sequences)
