"""Wrong calls of the public functions: each is answered in one sentence, however large the model is."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import bart_eqx
from bart_eqx.model.outputs import BaseModelOutput
from bart_eqx.training import cross_entropy
from support import configured


IDS, MASK = np.array([[5, 6, 7, 2], [5, 6, 2, 1]]), np.ones((2, 4), int)
STATES = jnp.ones((2, 4, 30))
ENCODED = BaseModelOutput(STATES)
CLASSES: dict[str, Any] = {
    "model": bart_eqx.BartModel,
    "seq2seq": bart_eqx.BartForConditionalGeneration,
    "classifier": bart_eqx.BartForSequenceClassification,
    "answerer": bart_eqx.BartForQuestionAnswering,
    "causal": bart_eqx.BartForCausalLM,
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Of as many layers as bart-large."""
    config = configured("unequal", encoder_layers=12, decoder_layers=12, encoder_ffn_dim=4, decoder_ffn_dim=4)

    def build(cls: Any) -> Any:
        skeleton = eqx.filter_eval_shape(cls, config, key=jax.random.key(0))
        zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        return jax.tree.map(zeros, skeleton)

    return {name: build(cls) for name, cls in CLASSES.items()}


Call = Callable[[Any], Any]

# Of every class.
FORWARD: dict[str, tuple[Call, str]] = {
    "list": (lambda m: m([[5, 6], [7, 8]]), r"`input_ids` must be an array of integers .*Got list: numpy.asarray"),
    "text": (lambda m: m("a text"), "Got str: tokenise it first"),
    "texts": (lambda m: m(["a text", "another"]), "Got list: tokenise it first"),
    "batch": (lambda m: m(dict(input_ids=IDS)), r"Got dict: give its fields, as in model\(\*\*batch\)"),
    "float ids": (lambda m: m(IDS.astype(float)), r"`input_ids` must be an array of integers .*Got float64\[2, 4\]"),
    "no axis": (lambda m: m(np.array(5)), r"Got int64\[\]"),
    "float mask": (lambda m: m(IDS, MASK * 1.0), "`attention_mask` must be an array of booleans or integers .*float64"),
    "list mask": (lambda m: m(IDS, [[1] * 4] * 2), "`attention_mask` must be .*Got list"),
    "float positions": (lambda m: m(IDS, position_ids=IDS * 1.0), "`position_ids` must be an array of integers"),
    "positions": (lambda m: m(IDS, position_ids=IDS[:, :2]), r"Got int64\[2, 2\], with `input_ids` int64\[2, 4\]"),
    "outside": (lambda m: m(np.where(IDS == 6, 106, IDS)), r"`input_ids` must be in \[0, 97\)"),
    "seed": (lambda m: m(IDS, key=0), r"`key` must be a JAX key, as from jax.random.key\(0\). Got int"),
    "flag": (lambda m: m(IDS, output_attentions="yes"), "`output_attentions` must be True or False. Got str"),
    "nothing": (lambda m: m(), "missing a required argument: 'input_ids'. Its arguments are input_ids"),
    "too many": (lambda m: m(*[IDS] * 9), "takes by position only"),
    "misspelt": (lambda m: m(IDS, atention_mask=MASK), "has no argument `atention_mask`. Is it `attention_mask`"),
    "unknown": (lambda m: m(IDS, xyzzy=1), "has no argument `xyzzy`. It has input_ids"),
    "token types": (lambda m: m(IDS, token_type_ids=MASK), "`token_type_ids` is .* BART has none; leave them out"),
    "labels": (lambda m: m(IDS, labels=IDS), "`labels` is .*bart_eqx.training.cross_entropy"),
    "train": (lambda m: m(IDS, train=True), "`train` is .*inference_mode"),
    "jitted": (lambda m: eqx.filter_jit(m)([[5, 6]]), "`input_ids` must be .*Got list"),
    "config": (lambda m: type(m)({"d_model": 8}, key=jax.random.key(0)), "`config` must be a BartConfig. Got dict"),
    "config seed": (lambda m: type(m)(configured("unequal"), key=0), "`key` must be a JAX key"),
    "no key": (lambda m: type(m)(configured("unequal")), "missing a required argument: 'key'"),
}

# Of the classes with an encoder.
SEQ2SEQ: dict[str, tuple[Call, str]] = {
    "mask": (lambda m: m(IDS, MASK[:, :3]), r"\[\*batch src\]. Got int64\[2, 3\], with `input_ids` int64\[2, 4\]"),
    "targets": (lambda m: m(IDS, MASK, IDS[:1]), r"`decoder_input_ids` must be .*Got int64\[1, 4\]"),
    "target mask": (lambda m: m(IDS, MASK, IDS, MASK[:, :2]), "`decoder_attention_mask` must be"),
    "encode list": (lambda m: m.encode([[5]]), "`input_ids` must be .*Got list"),
    "encode mask": (lambda m: m.encode(IDS, MASK * 1.0), "booleans or integers"),
    "encode types": (lambda m: m.encode(IDS, token_type_ids=MASK), "BART has none"),
    "cache of states": (lambda m: m.init_cache(STATES, max_length=5), "must be what `encode` returns. Got float32"),
    "cache as in HF": (lambda m: m.init_cache(2, 5, ENCODED), "init_cache` takes by position only"),
    "cache mask": (lambda m: m.init_cache(ENCODED, MASK[:, :3], max_length=5), r"_mask` must be .*Got int64\[2, 3\]"),
    "cache float mask": (lambda m: m.init_cache(ENCODED, MASK * 1.0, max_length=5), "booleans or integers"),
    "cache length": (lambda m: m.init_cache(ENCODED, max_length=5.0), "`max_length` must be an integer. Got 5.0"),
    "cache no length": (lambda m: m.init_cache(ENCODED, max_length=None), "`max_length` must be an integer. Got None"),
    "long cache": (lambda m: m.init_cache(ENCODED, max_length=500), "at most max_position_embeddings=23"),
    "decode list": (lambda m: m.decode([[5]], encoder_outputs=ENCODED), "`decoder_input_ids` must be .*Got list"),
    "decode floats": (lambda m: m.decode(IDS * 1.0, encoder_outputs=ENCODED), "integers"),
    "decode outputs": (lambda m: m.decode(IDS, ENCODED), "`cache` must be a cache from .*Got BaseModelOutput"),
    "decode states": (lambda m: m.decode(IDS, encoder_outputs=STATES), "what `encode` returns. Got float32"),
    "decode batch": (
        lambda m: m.decode(IDS[:1], encoder_outputs=ENCODED),
        r"batch axes of the cache, \[2\]. Got \[1\]",
    ),
    "decode row": (lambda m: m.decode(IDS[0], encoder_outputs=ENCODED), r"Got \[\]; one sequence has none"),
    "decode width": (lambda m: m.decode(IDS, encoder_outputs=BaseModelOutput(STATES[..., 1:])), "in_dim=30.*29"),
    "decode no axis": (lambda m: m.decode(IDS, encoder_outputs=BaseModelOutput(STATES[0])), "batch axes of the cache"),
    "decode source mask": (
        lambda m: m.decode(IDS, encoder_outputs=ENCODED, encoder_attention_mask=MASK[:, :3]),
        r"`encoder_attention_mask` must be .*Got int64\[2, 3\]",
    ),
    "decode nothing": (lambda m: m.decode(IDS), "`decode` takes a `cache`"),
    "decode old cache": (
        lambda m: m.decode(IDS, past_key_values=1),
        "`past_key_values` is .*give it to `decode` as `cache`",
    ),
    "decode mask": (
        lambda m: m.decode(IDS, encoder_outputs=ENCODED, decoder_attention_mask=MASK * 1.0),
        "`decoder_attention_mask` must be an array of booleans or integers",
    ),
}

# Of one class.
OTHERS: dict[str, tuple[str, Call, str]] = {
    "states": ("causal", lambda m: m(IDS, None, None, STATES[0]), "`encoder_hidden_states` must be .*of floats"),
    "states list": ("causal", lambda m: m(IDS, None, None, [[1.0]]), "Got list: numpy.asarray"),
    "source mask": ("causal", lambda m: m(IDS, None, None, STATES, MASK[:, :3]), "`encoder_attention_mask` must be"),
    "source width": ("causal", lambda m: m(IDS, None, None, STATES[..., 1:]), "in_dim=30"),
    "batch size": ("causal", lambda m: m.init_cache([2], max_length=5), "`batch_size` must be an integer. Got list"),
    "other batch": (
        "causal",
        lambda m: m.init_cache(3, max_length=5, encoder_hidden_states=STATES),
        r"The source must have the batch axes of the target, \[3\]. Got \[2\]",
    ),
    "cache": ("causal", lambda m: m(IDS, cache=ENCODED), "`cache` must be a cache from"),
    "cache batch": ("causal", lambda m: m(IDS[:1], cache=m.init_cache(2, max_length=5)), "batch axes of the cache"),
    "decode": ("causal", lambda m: m.decode([[1]], m.init_cache(2, max_length=5)), "Got list"),
    "head": ("seq2seq", lambda m: m.lm_logits(IDS), "`states` must be an array of floats"),
    "encoder ids": ("model", lambda m: m.encoder(IDS), "`inputs_embeds` must be an array of floats"),
    "decoder list": ("model", lambda m: m.decoder([[1.0]], None), "`inputs_embeds` must be .*Got list"),
    "loss list": ("seq2seq", lambda m: cross_entropy(m.lm_logits, STATES, [[1]]), "`labels` must be .*Got list"),  # pyright: ignore
    "loss floats": ("seq2seq", lambda m: cross_entropy(m.lm_logits, STATES, IDS * 1.0), "`labels` .*integers"),
    "loss shape": ("seq2seq", lambda m: cross_entropy(m.lm_logits, STATES, IDS[:, :2]), r"Got int64\[2, 2\], with"),
    "loss output": ("seq2seq", lambda m: cross_entropy(m.lm_logits, ENCODED, IDS), "`states` .*Got BaseModelOutput"),  # pyright: ignore
    "shift list": ("model", lambda m: bart_eqx.shift_tokens_right([[5]], 1, 2), "Got list"),  # pyright: ignore
    "shift": ("model", lambda m: bart_eqx.shift_tokens_right(IDS), "missing a required argument: 'pad_token_id'"),  # pyright: ignore
    "quantize": ("model", lambda m: bart_eqx.quantize(bart_eqx.quantize(m)), "int8 weights already"),
}

# Arguments of `generate` and `stream`; others are in `test_generate.py`.
GENERATE: dict[str, tuple[dict[str, Any], str]] = {
    "list": (dict(input_ids=[[5]]), "Got list"),
    "float mask": (dict(attention_mask=MASK * 1.0), "booleans or integers"),
    "token types": (dict(token_type_ids=MASK), "`token_type_ids` is .* BART has none; leave them out"),
    "cache": (dict(past_key_values=1), "`past_key_values`"),
    "length": (dict(max_length="5"), "`max_length` must be int. Got '5'"),
    "words": (dict(bad_words_ids=[IDS]), r"`bad_words_ids` must be Sequence\[Sequence\[int\]\]"),
    "count": (dict(num_return_sequences=2.5), "`num_return_sequences` must be int. Got 2.5"),
    "strings": (dict(stop_strings=["x" * 5000]), "bart_eqx.stream"),
    "allowed": (dict(prefix_allowed_tokens=5), "is a list of token sequences"),
    "allowed long": (dict(prefix_allowed_tokens=[list(range(3, 96)) * 30]), r"\(2790 tokens\), which cannot"),
    "outside": (dict(prefix_allowed_tokens=[[1000] * 999]), "the model's tokens are 0 to 96"),
    "many outside": (dict(suppress_tokens=list(range(3, 5000))), "the model's tokens are 0 to 96"),
    "width": (dict(input_ids=None, encoder_outputs=BaseModelOutput(STATES[..., 1:])), "in_dim=30"),
    "source mask": (dict(input_ids=None, encoder_outputs=ENCODED, attention_mask=MASK[:, :3]), r"\(2, 4\) tokens"),
}  # fmt: skip

# Arguments of `generate` that are the model itself, whose text is long.
IS_THE_MODEL = "generation_config logits_processor semantics pad_to_multiple_of key temperature sequence_bias".split()


def answer(call: Callable[[], Any], error: Any = (TypeError, ValueError)) -> str:
    with pytest.raises(error) as raised:
        call()
    text = str(raised.value)
    assert len(text) < 600, f"{len(text)} characters: {text[:200]}"
    return text


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("kind", CLASSES)
def test_a_model(models: dict[str, Any], kind: str, name: str) -> None:
    call, message = FORWARD[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call(models[kind])
    answer(lambda: call(models[kind]))


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind != "causal"])
def test_an_encoder_decoder(models: dict[str, Any], kind: str, name: str) -> None:
    call, message = SEQ2SEQ[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call(models[kind])
    answer(lambda: call(models[kind]))


@pytest.mark.parametrize("name", OTHERS)
def test_one_class(models: dict[str, Any], name: str) -> None:
    kind, call, message = OTHERS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call(models[kind])
    answer(lambda: call(models[kind]))


@pytest.mark.parametrize("name", GENERATE)
@pytest.mark.parametrize("call", [bart_eqx.generate, lambda *args, **options: list(bart_eqx.stream(*args, **options))])
def test_generation(models: dict[str, Any], call: Any, name: str) -> None:
    arguments, message = GENERATE[name]
    run = lambda: call(models["seq2seq"], **(dict(input_ids=IDS) | arguments))
    with pytest.raises((TypeError, ValueError), match=message):
        run()
    answer(run)


@pytest.mark.parametrize("name", IS_THE_MODEL)
@pytest.mark.parametrize("call", [bart_eqx.generate, bart_eqx.stream])
def test_the_model_as_an_argument(models: dict[str, Any], call: Any, name: str) -> None:
    given: dict[str, Any] = {name: models["seq2seq"]}
    assert name in answer(lambda: call(models["seq2seq"], IDS, do_sample=True, **given))


def test_checks_can_be_turned_off(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`JAXTYPING_DISABLE=1` turns these off with the others."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(Exception) as raised:
        models["model"].encode("a text")
    assert "tokenise" not in str(raised.value)
