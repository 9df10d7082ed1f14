"""Batches, the engine, and what all tasks share: order, batch invariance, few programs, heads, checkpoints."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from bart_eqx.checkpoint.errors import UnsupportedCheckpointError
from bart_eqx.text import Summarizer, TextGenerator, Tokenizer
from bart_eqx.text.batches import MAX_SHAPES, ladder, plan_batches
from bart_eqx.text.chunks import chunks_of
from bart_eqx.text.engine import Engine
from bart_eqx.text.streaming import decode_pieces, stream_text, strip_pieces
from support import configured
from text_support import demo_model, demo_tokenizer, tiny, tokenizer


def lengths_of(kind: str, count: int) -> list[int]:
    rng = np.random.default_rng(count)
    drawn = {
        "descriptions": np.exp(rng.normal(np.log(87), 0.58, count)),  # as Debian's packages have
        "uniform": rng.uniform(5, 1024, count),
        "short": rng.uniform(3, 40, count),
        "equal": np.full(count, 33),
        "two kinds": np.where(rng.random(count) < 0.05, rng.uniform(800, 1024, count), rng.uniform(5, 30, count)),
    }[kind]
    return np.clip(drawn.astype(int), 3, 1024).tolist()


# The part of all tokens that is padding, at most. For the descriptions, 12 widths cannot have less than 0.10.
VAIN = {"descriptions": 0.145, "uniform": 0.10, "short": 0.135, "equal": 0.11, "two kinds": 0.10}


@pytest.mark.parametrize("kind", VAIN)
@pytest.mark.parametrize("count", [1, 2, 7, 100, 2000, 10_000])
@pytest.mark.parametrize("batch_tokens", [1, 512, 4096])
def test_plans(kind: str, count: int, batch_tokens: int) -> None:
    lengths = lengths_of(kind, count)
    plan = plan_batches(lengths, batch_tokens=batch_tokens, max_width=1024)
    assert sorted(index for batch in plan for index in batch.rows) == list(range(count))
    assert len({(batch.size, batch.width) for batch in plan}) <= MAX_SHAPES
    for batch in plan:
        assert len(batch.rows) <= batch.size and batch.width in ladder(1024)
        assert max(lengths[index] for index in batch.rows) <= batch.width
        assert batch.size == 1 or batch.size * batch.width <= batch_tokens
    if count >= 2000 and batch_tokens == 4096:
        computed = sum(batch.size * batch.width for batch in plan)
        assert 1 - sum(lengths) / computed <= VAIN[kind]


def test_the_ladder() -> None:
    assert ladder(7) == [4, 7] and ladder(1) == [1]
    assert ladder(1024)[:3] == [4, 8, 12] and ladder(1024)[-2:] == [960, 1024] and len(ladder(1024)) < 50
    assert plan_batches([], batch_tokens=9, max_width=9) == []
    with pytest.raises(ValueError, match="at most 9 tokens. Got 10"):
        plan_batches([3, 10], batch_tokens=9, max_width=9)


def test_results_are_in_the_order_of_the_texts() -> None:
    engine = Engine(demo_tokenizer(), 32, batch_tokens=64)
    texts = [str(number) * (number % 7 + 1) for number in range(1000)]
    rows = engine.tokenize(texts)
    shapes = set()

    def run_batch(input_ids: Any, attention_mask: Any) -> Any:
        shapes.add(input_ids.shape)
        assert (input_ids[attention_mask == 0] == 1).all()
        return engine.tokenizer.decode(input_ids)

    assert engine.map(run_batch, rows, label="copying") == texts
    assert len(shapes) <= MAX_SHAPES
    assert engine.map(run_batch, [], label="copying") == []


def test_what_does_not_fit_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(tokenizer(), 6)
    rows = engine.tokenize(["a b c d e f g", "a", "a b c d e"])
    assert [len(row) for row in rows] == [6, 3, 6] and [row.truncated for row in rows] == [3, 0, 1]
    assert "2 of 3 texts have more than the model's 6 tokens: 4 tokens were dropped" in caplog.text
    with pytest.raises(ValueError, match="The text 'a b c d e' has 7 tokens, and the model 6 positions: split it"):
        engine.tokenize(["a", "b", "a b c d e"], truncation=False)
    with pytest.raises(ValueError, match="`batch_tokens` must be at least 1"):
        Engine(tokenizer(), 6, batch_tokens=0)


# Summaries: of the demo, which spells numbers


def test_a_text_in_a_result_out() -> None:
    summarizer = Summarizer(demo_model(), demo_tokenizer())
    one = summarizer("40217")
    assert one.summary_text == "forty thousand two hundred and seventeen"
    assert [(chunk.start, chunk.end, chunk.num_tokens, chunk.truncated) for chunk in one.chunks] == [(0, 5, 7, 0)]
    assert summarizer(["40217"]) == [one] and summarizer([]) == []
    assert [result.summary_text for result in summarizer(("7", "40217"), num_beams=2)] == ["seven", one.summary_text]


def test_batch_invariance() -> None:
    """The same summaries in any order and any batch: alone, padded, side by side with others."""
    numbers = [str(7**power % 10 ** (power % 6 + 1)) for power in range(30)]
    wanted = Summarizer(demo_model(), demo_tokenizer())(numbers)
    for batch_tokens in (8, 100):
        summarizer = Summarizer(demo_model(), demo_tokenizer(), batch_tokens=batch_tokens)
        assert summarizer(numbers[::-1])[::-1] == wanted


@pytest.mark.slow
def test_two_thousand_records_use_twelve_programs(caplog: pytest.LogCaptureFixture) -> None:
    """Of mixed length, in batches of 2,048 tokens; a second call with other lengths meets some of them again."""
    config = configured("unequal", vocab_size=359, max_position_embeddings=600)
    summarizer = Summarizer(
        bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0)), demo_tokenizer(), batch_tokens=2048
    )
    texts = ["7" * (length // 2) for length in lengths_of("descriptions", 2000)]
    with caplog.at_level(logging.INFO, "bart_eqx.generation"):
        results = summarizer(texts, max_new_tokens=2)
        assert len(results) == 2000
        assert 6 <= sum("Compiling" in record.message for record in caplog.records) <= 12


# Long texts


def test_long_texts_are_cut_at_sentences() -> None:
    pytest.importorskip("sentencex")
    summarizer = Summarizer(demo_model(), demo_tokenizer())
    text = "123456. 4711. 12 12 12 12. 999999.  5 5 5 5 5. 123456.\n\n123456. 7. 7. 6. 12."
    result = summarizer(text)
    parts = [text[chunk.start : chunk.end] for chunk in result.chunks]
    assert [part.strip() for part in parts] == [
        "123456. 4711. 12 12 12 12.",
        "999999.  5 5 5 5 5. 123456.",
        "123456. 7. 7. 6. 12.",
    ]
    assert all(chunk.num_tokens <= 32 and chunk.truncated == 0 for chunk in result.chunks)
    alone = summarizer(parts)
    assert [chunk.summary_text for chunk in result.chunks] == [one.summary_text for one in alone]
    assert result.summary_text == " ".join(one.summary_text for one in alone)
    cut = summarizer(text, truncation=True)
    assert len(cut.chunks) == 1 and cut.chunks[0].truncated > 0
    with pytest.raises(ValueError, match="tokens, and the model 32 positions: split it"):
        summarizer(text, truncation=False)


@pytest.mark.parametrize(
    "text",
    [
        "word " * 400,  # no sentence
        "x" * 3000,  # no word
        "Short. " * 150 + "long " * 200 + ". Short." * 50,
        "A sentence of Dr. Smith, e.g. this one? " * 40 + "😀\x00\r\n" * 60,
        "\n\n".join(["One. Two.", "   ", "三。四。"] * 40),
        "a" + " " * 500 + "b. c",
    ],
)
def test_chunks_cover_the_text_and_fit(text: str) -> None:
    pytest.importorskip("sentencex")
    for max_length, prefix in ((40, ""), (64, " ")):
        spans = chunks_of(text, tokenizer(), max_length, prefix=prefix, language="en")
        assert len(spans) > 1 and all(a.end <= b.start for a, b in itertools.pairwise(spans))
        kept = "".join(text[span.start : span.end] for span in spans)
        assert "".join(kept.split()) == "".join(text.split())
        lengths = [len(row) for row in tokenizer().tokenize([text[s.start : s.end] for s in spans], prefix=prefix)]
        assert max(lengths) <= max_length
    with pytest.raises(ValueError, match="cannot be cut into parts of 12"):
        chunks_of(text, tokenizer(), 12, prefix="", language="en")


def test_the_last_part_is_not_a_scrap() -> None:
    pytest.importorskip("sentencex")
    text = "This sentence has nine tokens, I think. " * 8  # 81 tokens, for parts of at most 62
    first, second = chunks_of(text, tokenizer(), 64, prefix="", language="en")
    assert abs((first.end - first.start) - (second.end - second.start)) <= 1


# Piece by piece


def test_streamed_texts_are_those_of_a_call() -> None:
    summarizer, generator = (task(demo_model(), demo_tokenizer()) for task in (Summarizer, TextGenerator))
    pieces = list(summarizer.stream("40217"))
    assert pieces == ["forty", " thousand", " two", " hundred", " and", " seventeen"]
    assert list(generator.stream("40217")) == pieces
    assert list(generator.stream("40217", choices=["eight", "forty"])) == ["forty"]
    for task in (summarizer, generator):
        with pytest.raises(ValueError, match="`stream` is for greedy search and sampling"):
            task.stream("40217", num_beams=2)


def test_a_streamed_sample_is_that_of_a_call() -> None:
    """From the same key; and each source of a call draws from a key of its own."""
    generator = TextGenerator(demo_model(), demo_tokenizer())
    options: dict[str, Any] = dict(do_sample=True, temperature=9.0, max_new_tokens=9, key=jax.random.key(3))
    streamed = "".join(generator.stream("40217", **options))
    assert streamed == generator("40217", **options).generated_text
    (row,) = generator.engine.tokenize(["40217"])
    streams = (stream_text(generator.engine, generator.model, row, options, index=index) for index in (0, 1))
    first, second = map("".join, streams)
    assert first == streamed != second


def test_a_streamed_text_of_as_many_tokens_as_positions() -> None:
    """Their number is no multiple of the engine's widths."""
    generator = TextGenerator(tiny("BartForConditionalGeneration", max_position_embeddings=62), tokenizer())
    text = "a" + " b" * 99
    assert "".join(generator.stream(text, max_new_tokens=2)) == generator(text, max_new_tokens=2).generated_text


def test_streamed_parts_of_a_long_text() -> None:
    pytest.importorskip("sentencex")
    summarizer = Summarizer(demo_model(), demo_tokenizer())
    text = "4021. 7 15. " * 6
    whole = summarizer(text)
    assert len(whole.chunks) > 1 and "".join(summarizer.stream(text)) == whole.summary_text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h\xe9llo \U0001f600\U0001f600 \u65e5\u672c\u8a9e \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "a\ufffdb\ufffd",
        "  a  ",
    ],
)
def test_pieces_are_whole_characters(text: str) -> None:
    """Of three and four bytes, which are several tokens each. A replacement character of the text itself stays."""
    ids = tokenizer()(text).input_ids.tolist()
    pieces = list(decode_pieces(tokenizer(), ids))
    assert "".join(pieces) == text and ("\ufffd" in text or not any("\ufffd" in piece for piece in pieces))
    assert len(pieces) > 1 or not text.strip()
    cut = ids[: len(ids) // 2]  # within a character: what there is of it comes at the end
    assert "".join(decode_pieces(tokenizer(), cut)) == tokenizer().decode(cut)
    assert "".join(strip_pieces(pieces)) == text.strip()
    assert "".join(strip_pieces(list(text))) == text.strip()


# Prefix and settings of the checkpoint; heads


def checkpoint(folder: Path, model: Any, **fields: Any) -> Path:
    """A folder as the Hub has it: a model, a tokenizer, and further fields of config.json."""
    bart_eqx.save_pretrained(model, folder)
    demo_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def test_settings_of_the_checkpoint(tmp_path: Path) -> None:
    """`prefix`, and `task_specific_params.summarization`, which come after those of the constructor and of the call."""
    params = dict(summarization=dict(num_beams=3, max_length=9, min_length=5), translation=dict(num_beams=7))
    folder = checkpoint(tmp_path, demo_model(), prefix="1", task_specific_params=params)
    summarizer = Summarizer.from_pretrained(folder, max_length=8)
    assert summarizer.generation_options == dict(num_beams=3, max_length=8, min_length=5)
    assert summarizer.prefix == "1"
    plain = Summarizer(demo_model(), demo_tokenizer())
    chunk = summarizer("23").chunks[0]
    assert summarizer("23").summary_text == plain("123", num_beams=3, max_length=8, min_length=5).summary_text
    assert (chunk.start, chunk.end, chunk.num_tokens) == (0, 2, 5)
    assert summarizer("7", num_beams=1, min_length=0, max_length=32).summary_text == "seventeen"


def test_saving(tmp_path: Path) -> None:
    """The model, its tokenizer and its prefix; also with int8 weights."""
    tokenizer = Tokenizer(demo_tokenizer().backend, mask_token="<mask>", prefix="1")
    for name, model in dict(float32=demo_model(), int8=bart_eqx.quantize(demo_model())).items():
        summarizer = Summarizer(model, tokenizer)
        summarizer.save_pretrained(tmp_path / name)
        again = Summarizer.from_pretrained(tmp_path / name)
        assert again.prefix == "1" and again("7") == summarizer("7")
        assert again("7").summary_text == "seventeen"


def test_a_decoder_alone_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match="Got a BartForCausalLM: a decoder alone has no source; to continue a prompt,"):
        TextGenerator(tiny("BartForCausalLM"), tokenizer())


def test_the_wrong_head_is_refused(tmp_path: Path) -> None:
    classifier = tiny("BartForSequenceClassification", vocab_size=359)
    with pytest.raises(TypeError, match="Summarizer needs a BartForConditionalGeneration. Got a BartForSequenceClass"):
        Summarizer(classifier, demo_tokenizer())
    folder = checkpoint(tmp_path, classifier)
    with pytest.raises(UnsupportedCheckpointError, match="is a BartForSequenceClassification. Summarizer needs a"):
        Summarizer.from_pretrained(folder)
    with pytest.raises(TypeError, match="There is no option `nmu_beams`. Is it `num_beams`?"):
        Summarizer(demo_model(), demo_tokenizer())("7", nmu_beams=3)


def test_scores_that_are_not_numbers() -> None:
    broken = eqx.tree_at(lambda model: model.final_logits_bias, demo_model(), jnp.full((1, 359), jnp.nan))
    with pytest.raises(FloatingPointError, match="A token was chosen although its scores were NaN"):
        Summarizer(broken, demo_tokenizer())("7")


def test_sampling_draws_from_a_key() -> None:
    summarizer = Summarizer(demo_model(), demo_tokenizer(), do_sample=True, temperature=5.0, batch_tokens=16)
    texts = ["40217"] * 6
    draw: Callable[[int], list[str]] = lambda seed: [
        result.summary_text for result in summarizer(texts, key=jax.random.key(seed))
    ]
    assert draw(0) == draw(0) != draw(1)
    assert len(set(draw(0))) > 3  # the batches draw for themselves
