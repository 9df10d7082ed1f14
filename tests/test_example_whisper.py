"""`examples/whisper` over the parts of bart_eqx. `oracle/test_whisper.py` compares with FlaxWhisper, live."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from bart_eqx.checkpoint.formats.safetensors import read_safetensors
from bart_eqx.checkpoint.pytree import to_numpy
from bart_eqx.generation.processors.scores import int_setting
from bart_eqx.training import rematerialise
from examples import lora
from examples.stacked import stack
from examples.whisper.checkpoint import convert, from_pretrained
from examples.whisper.config import WhisperConfig
from examples.whisper.processors import ForcedTokens, TimestampRules
from examples.whisper.transcriber import SpeechTokens, Transcriber
from support import relative_error, values, write_file
from whisper_cases import (
    CONFIGS,
    END,
    GENERATION,
    GERMAN,
    NO_TIMESTAMPS,
    START,
    TRANSCRIBE,
    parameters,
    random_whisper,
)


FOLDER = Path(__file__).parent / "references/whisper"
STORED = np.load(FOLDER / "pytorch.npz")
LIMIT = 5e-6  # measured: 5e-7


@pytest.fixture(scope="module")
def whisper() -> Any:
    return from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber.from_pretrained(FOLDER)


@eqx.filter_jit
def outputs(model: Any, features: Any, target: Any) -> Any:
    return model(features, target)


class TestPyTorch:
    """The numbers of transformers 5.24 with PyTorch, which loaded the folder that `convert` has written."""

    def test_outputs(self, whisper: Any) -> None:
        out = outputs(whisper, STORED["features"], STORED["target"])
        assert relative_error(out.logits, STORED["logits"]) <= LIMIT
        assert relative_error(out.encoder_last_hidden_state, STORED["encoder_states"]) <= LIMIT

    @pytest.mark.parametrize(
        "case, options",
        {
            "greedy": dict(language="de", task="translate"),
            "greedy-detected": dict(),  # the languages of rows differ
            "greedy-timestamps": dict(language="en", return_timestamps=True),
            "beams": dict(language="en", num_beams=4),
            "beams-timestamps": dict(language="de", return_timestamps=True, num_beams=4),
        }.items(),
    )
    def test_tokens(self, transcriber: Transcriber, case: str, options: dict[str, Any]) -> None:
        result = transcriber(STORED["features"], max_new_tokens=12, **options)
        np.testing.assert_array_equal(result.sequences, STORED[f"tokens.{case}"])
        if "num_beams" in options:
            assert result.scores is not None
            np.testing.assert_allclose(result.scores, STORED[f"scores.{case}"], rtol=1e-5)

    def test_timestamp_rules(self) -> None:
        rules = TimestampRules(*map(int_setting, (NO_TIMESTAMPS, END, 3, 4)))
        run = jax.jit(jax.vmap(rules, in_axes=(0, 0, 0)))
        lengths = np.repeat((3, 3, 4, 4, 5, 6, 7, 8), 10)
        tokens = np.where(np.arange(8) < lengths[:, None], STORED["rules.tokens"], -1).astype(np.int32)
        np.testing.assert_array_equal(run(STORED["rules.logits"], tokens, lengths), STORED["rules.scores"])


def test_cached_equals_full(whisper: Any) -> None:
    features, target = STORED["features"], STORED["target"]

    @eqx.filter_jit
    def in_chunks(model: Any) -> tuple[jax.Array, jax.Array]:
        cache, parts = model.model.init_cache(6, 9, model.encode(features)), []
        for start, end in ((0, 3), (3, 4), (4, 7)):
            output, cache = model.decode(target[:, start:end], cache)
            parts.append(output.logits)
        return jnp.concatenate(parts, axis=1), model(features[1], target[1]).logits

    chunks, alone = in_chunks(whisper)
    whole = outputs(whisper, features, target).logits
    assert relative_error(chunks, whole) <= 1e-5 and relative_error(alone, whole[1]) <= 1e-5


def test_generates(whisper: Any) -> None:
    """Greedy search chooses the best word at each step, and four beams have the scores of their sequences: both as read
    in one piece, without a cache."""
    features, target = STORED["features"], STORED["target"]
    plain: dict[str, Any] = dict(max_length=8, min_length=8, suppress_tokens=None, begin_suppress_tokens=None)
    greedy = bart_eqx.generate(whisper, features[:2], output_logits=True, **plain)
    beams = bart_eqx.generate(whisper, features[0], num_beams=4, num_return_sequences=4, **plain)
    assert greedy.step_logits is not None and beams.scores is not None
    sequences = np.concatenate([greedy.sequences, beams.sequences]).astype(target.dtype)
    logits = outputs(whisper, features[[0, 1, 0, 0, 0, 0]], sequences[:, :-1]).logits
    assert relative_error(greedy.step_logits, logits[:2]) <= 1e-5
    scores = jnp.take_along_axis(jax.nn.log_softmax(logits), sequences[:, 1:, None], axis=-1).sum(axis=(1, 2)) / 7
    np.testing.assert_allclose(beams.scores, scores[2:], rtol=1e-5)
    assert len({tuple(row) for row in sequences[2:]}) == 4


def test_samples_obey_the_rules(transcriber: Transcriber) -> None:
    """Times come first, in pairs, and do not decrease."""
    result = transcriber(
        STORED["features"], language="de", return_timestamps=True, do_sample=True, top_k=0, temperature=3.0,
        num_return_sequences=8, max_new_tokens=20, key=jax.random.key(0),
    )  # fmt: skip
    counts = set()
    for row, length in zip(np.asarray(result.sequences), np.asarray(result.lengths), strict=True):
        assert row[:3].tolist() == [START, GERMAN, TRANSCRIBE] and NO_TIMESTAMPS < row[3] <= NO_TIMESTAMPS + 5
        is_time = row[3:length] > NO_TIMESTAMPS
        assert NO_TIMESTAMPS not in row[3:] and (np.diff(row[3:length][is_time]) >= 0).all()
        for i in range(1, length - 3):
            closed, opened = (
                is_time[i - 1] and (i < 2 or is_time[i - 2]),
                is_time[i - 1] and not (i < 2 or is_time[i - 2]),
            )
            assert not (closed and is_time[i]) and not (opened and row[3 + i] < END)
        counts.add(int(is_time.sum()))
    assert result.finite.all() and len(counts) > 3


def test_forced_tokens(whisper: Any) -> None:
    forced = ForcedTokens(jnp.array([-1, GERMAN, -1, TRANSCRIBE]))
    result = bart_eqx.generate(whisper, STORED["features"][:2], logits_processor=[forced], max_length=6)
    np.testing.assert_array_equal(result.sequences[:, [1, 3]], [[GERMAN, TRANSCRIBE]] * 2)
    assert not (result.sequences[:, [2, 4, 5]] == GERMAN).any() and result.finite.all()


class TestInitCache:
    def test_shapes(self, whisper: Any) -> None:
        """As in the reference (`oracle/test_whisper.py`), for each of the decoder's layers."""
        encoded = bart_eqx.BaseModelOutput(jnp.zeros((2, 7, 12)))
        cache = eqx.filter_eval_shape(whisper.model.init_cache, 2, 9, encoded)
        assert len(cache.self_attn) == len(cache.cross_attn) == whisper.config.decoder_layers == 1
        shapes = [(kv.keys.shape, kv.values.shape) for kv in (*cache.self_attn, *cache.cross_attn)]
        assert shapes == [((2, 2, 6, 9), (2, 2, 9, 6)), ((2, 2, 6, 7), (2, 2, 7, 6))]

    def test_another_batch_size(self, whisper: Any) -> None:
        with pytest.raises(ValueError, match=r"\[3\]. Got \[2\]"):
            whisper.model.init_cache(3, 9, bart_eqx.BaseModelOutput(jnp.zeros((2, 7, 12))))

    def test_too_long(self, whisper: Any) -> None:
        with pytest.raises(ValueError, match="max_position_embeddings=24. Got max_length=25"):
            whisper.model.init_cache(2, 25, bart_eqx.BaseModelOutput(jnp.zeros((2, 7, 12))))


class TestWrongCalls:
    @pytest.mark.parametrize("shape", [(5, 13), (2, 14, 5), (2, 4, 14)])
    def test_shape(self, whisper: Any, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\[\*batch, mel=5, frames=14\].* Got \["):
            whisper.encode(np.zeros(shape, np.float32))

    def test_no_axis_for_mel(self, whisper: Any) -> None:
        with pytest.raises(TypeCheckError, match=r"\*batch mel frames"):
            whisper.encode(np.zeros(14, np.float32))

    def test_mask(self, whisper: Any) -> None:
        with pytest.raises(ValueError, match="has no mask"):
            bart_eqx.generate(whisper, STORED["features"], np.ones((6, 7), int))

    def test_language_and_task(self, transcriber: Transcriber) -> None:
        with pytest.raises(ValueError, match=r"`language` must be one of <\|de\|>, <\|en\|>. Got '<\|fr\|>'"):
            transcriber(STORED["features"], language="fr")
        with pytest.raises(ValueError, match="`task` must be one of transcribe, translate. Got 'sing'"):
            transcriber(STORED["features"], language="de", task="sing")
        english = dataclasses.replace(transcriber, tokens=SpeechTokens(NO_TIMESTAMPS))
        with pytest.raises(ValueError, match="one language. Got language='de'"):
            english(STORED["features"], language="de")

    def test_config(self) -> None:
        fields = dict(model_type="whisper", **CONFIGS["distilled"])
        assert WhisperConfig.from_dict(fields | dict(apply_spec_augment=True)) == WhisperConfig(**CONFIGS["distilled"])
        for change, message in (
            (dict(model_type="bart"), "Got {'model_type': 'bart'"),
            (dict(rotary=True), "not known to Whisper: rotary"),
            (dict(num_mel_bins=0), "num_mel_bins=0 and"),
            (dict(decoder_attention_heads=5), "divisible by `decoder_attention_heads`"),
        ):
            with pytest.raises(ValueError, match=message):
                WhisperConfig.from_dict(fields | change)


class TestCheckpoints:
    @staticmethod
    def folder(path: Path, file: str, name: str, changes: dict[str, Any]) -> Path:
        params = parameters(WhisperConfig(**CONFIGS[name])) | changes
        write_file(path / file, {key: array for key, array in params.items() if array is not None}, layout="flax")
        (path / "config.json").write_text(json.dumps(dict(model_type="whisper", **CONFIGS[name])))
        (path / "generation_config.json").write_text(json.dumps(GENERATION))
        return path

    @pytest.mark.parametrize("file", ["flax_model.msgpack", "model.safetensors"])
    @pytest.mark.parametrize("name", CONFIGS)
    def test_converted(self, name: str, file: str, tmp_path: Path) -> None:
        """From Flax's names to PyTorch's, and the same model from both."""
        convert(self.folder(tmp_path, file, name, {}), tmp_path / "converted")
        model, again = from_pretrained(tmp_path), from_pretrained(tmp_path / "converted")
        wanted = random_whisper(name)
        of_wanted, *others = map(to_numpy, (wanted, model, again))
        for other in others:
            assert other.keys() == of_wanted.keys() and all(np.array_equal(other[key], of_wanted[key]) for key in other)
        assert jax.tree.structure(model) == jax.tree.structure(again)
        assert model.generation_config.suppress_tokens == (1, 5, 9, START) and not model.generation_config.unusable
        names = values(read_safetensors(tmp_path / "converted/model.safetensors"))
        assert ("proj_out.weight" in names) == (name == "untied")
        assert names["model.encoder.conv1.weight"].shape == (12, 5, 3)

    def test_it_does_not_fit(self, tmp_path: Path) -> None:
        changes = {"model.encoder.conv1.bias": np.zeros(11, np.float32), "model.decoder.layer_norm.scale": None}
        folder = self.folder(
            tmp_path, "flax_model.msgpack", "distilled", changes | {"extra.bias": np.ones(3, np.float32)}
        )
        with pytest.raises(bart_eqx.CheckpointError) as error:
            from_pretrained(folder)
        for part in (
            "flax_model.msgpack",
            "unexpected: `extra.bias`",
            "(11,) in place of (12,)",
            "missing: `model.decoder.layer_norm.weight` (12,)",
        ):
            assert part in str(error.value), part

    def test_another_config(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, "flax_model.msgpack", "distilled", {})
        (folder / "config.json").write_text(json.dumps(dict(model_type="bart")))
        with pytest.raises(bart_eqx.CheckpointError, match='config.json: .*model_type="whisper"'):
            from_pretrained(folder)


def test_what_is_written_for_bart_works_here(whisper: Any) -> None:
    """Layers in one scan, layers computed twice, adapters by path, int8 weights."""
    adapted = lora.attach(whisper, r".*\.[qv]_proj", rank=2, alpha=4.0, key=jax.random.key(0))

    @eqx.filter_jit
    def logits(models: Any) -> list[jax.Array]:
        return [model(STORED["features"], STORED["target"]).logits for model in models]

    *same, of_int8 = logits([stack(whisper), rematerialise(adapted), bart_eqx.quantize(whisper)])
    assert all(relative_error(one, STORED["logits"]) <= LIMIT for one in same)
    assert 1e-4 < relative_error(of_int8, STORED["logits"]) <= 0.1
    adapters = jax.tree.leaves(eqx.filter(adapted, lora.is_adapter(adapted)))
    assert len(adapters) == 2 * 2 * (3 + 2)  # two in each of two maps, in three and two attentions
