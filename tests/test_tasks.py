"""The tasks, compared with transformers' pipelines on tiny random models with BART's tokenizer, and on the demo.

`scripts/make_task_references.py` has written the references: `tasks-4.json` with 4.57, `tasks-5.json` with 5.24.
"""

import functools
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
import task_cases as cases
from bart_eqx.checkpoint.errors import UnsupportedCheckpointError
from bart_eqx.text import (
    Classifier,
    Embedder,
    MaskFiller,
    QuestionAnswerer,
    Scorer,
    Summarizer,
    TextGenerator,
    ZeroShotClassifier,
    scorer as scorer_module,
)
from bart_eqx.text.mask_filler import spans_of
from text_support import demo_model, demo_tokenizer, tiny, tokenizer


NLI = ("contradiction", "neutral", "entailment")
LIMIT = 1e-5


@functools.cache
def reference(version: int) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "references" / f"tasks-{version}.json").read_text())


def classifier_model() -> Any:
    return tiny("BartForSequenceClassification", id2label=NLI)


def assert_equal(got: list[Any], wanted: list[dict[str, Any]]) -> None:
    """All fields of all elements, in order; scores to `LIMIT`."""
    assert len(got) == len(wanted)
    for mine, theirs in zip(got, wanted, strict=True):
        mine = vars(mine)
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if name == "score":
                assert abs(mine[name] - value) <= LIMIT
            else:
                assert mine[name] == value, name


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("targets", [None, [" war", " school", "x"]])
def test_masks(version: int, targets: list[str] | None) -> None:
    """One mask, and several, of which transformers shows the sequence with special tokens."""
    filler = MaskFiller(tiny("BartForConditionalGeneration", id2label=NLI), tokenizer())
    texts = [text for text, _ in cases.masked()]
    wanted = reference(version)["fill-mask" if targets is None else "fill-mask targets"]
    for (_, count), got, theirs in zip(cases.masked(), filler(texts, top_k=3, targets=targets), wanted, strict=True):
        for mine, other in zip([got] if count == 1 else got, [theirs] if count == 1 else theirs, strict=True):
            for element in other:
                element["sequence"] = element["sequence"].removeprefix("<s>").removesuffix("</s>")
            assert_equal(mine, other)
    assert_equal(
        filler(texts[0], top_k=3, targets=targets), [vars(x) for x in filler(texts, top_k=3, targets=targets)[0]]
    )


@pytest.mark.parametrize("version", [4, 5])
def test_classes(version: int) -> None:
    classifier = Classifier(classifier_model(), tokenizer())
    for got, wanted in zip(classifier(cases.TEXTS), reference(version)["text-classification"], strict=True):
        assert_equal(got, wanted[0])
    texts, pairs = zip(*cases.PAIRS, strict=True)
    for got, wanted, pair in zip(classifier(texts, pairs), reference(version)["pairs"], pairs, strict=True):
        if pair:  # the pipeline takes an empty text for none
            assert_equal(got, wanted)
    assert_equal(classifier(cases.TEXTS[0], top_k=1), [vars(classifier(cases.TEXTS)[0][0])])


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot(version: int, multi_label: bool) -> None:
    classifier = ZeroShotClassifier(classifier_model(), tokenizer())
    wanted = reference(version)[f"zero-shot-classification {multi_label}"]
    for got, theirs in zip(classifier(cases.TEXTS, cases.LABELS, multi_label=multi_label), wanted, strict=True):
        elements = [
            dict(label=label, score=score) for label, score in zip(theirs["labels"], theirs["scores"], strict=True)
        ]
        assert_equal(got, elements)


@pytest.mark.parametrize("key", cases.ANSWERS)
def test_answers(key: str) -> None:
    answerer = QuestionAnswerer(tiny("BartForQuestionAnswering", id2label=NLI), tokenizer())
    questions, contexts = [*cases.QUESTIONS, "Where?"], [*cases.TEXTS, cases.LONG_CONTEXT]
    got = answerer(question=questions, context=contexts, **cases.ANSWERS[key])
    for mine, theirs, context in zip(got, reference(4)[f"question-answering {key}"], contexts, strict=True):
        mine, theirs = (x if isinstance(x, list) else [x] for x in (mine, theirs))
        assert_equal(mine, [answer for answer in theirs if answer["score"] > 0])
        assert all(answer.answer == context[answer.start : answer.end] for answer in mine)


@pytest.mark.parametrize("prefix", ["", cases.PREFIX])
@pytest.mark.parametrize("index", range(len(cases.SUMMARIES)))
def test_summaries(index: int, prefix: str) -> None:
    summarizer = Summarizer(tiny("BartForConditionalGeneration", id2label=NLI), tokenizer(), prefix=prefix)
    wanted = reference(4)[f"summarization {index} {prefix!r}"]
    got = summarizer(cases.TEXTS, **cases.SUMMARIES[index])
    assert [result.summary_text for result in got] == [text.strip() for text in wanted]


# What these models are not: batches, options, and what is refused


def test_batch_invariance() -> None:
    """Classes, fills and answers are the same in any order and any batch, to 1e-5."""
    texts = [text for text, count in cases.masked() if count == 1]
    filler = lambda size: MaskFiller(tiny("BartForConditionalGeneration", id2label=NLI), tokenizer(), batch_tokens=size)
    zero_shot = lambda size: ZeroShotClassifier(classifier_model(), tokenizer(), batch_tokens=size)
    answerer = lambda size: QuestionAnswerer(
        tiny("BartForQuestionAnswering", id2label=NLI), tokenizer(), batch_tokens=size
    )
    runs = [
        lambda size, order: filler(size)([texts[at] for at in order]),
        lambda size, order: zero_shot(size)([texts[at] for at in order], cases.LABELS),
        lambda size, order: answerer(size)(
            question=["Who?"] * len(order), context=[texts[at] for at in order], top_k=2, max_seq_len=30, doc_stride=5
        ),
    ]
    order = list(np.random.default_rng(0).permutation(len(texts)))
    for run in runs:
        wanted = run(4096, range(len(texts)))
        for at, got in zip(order, run(1, order), strict=True):
            assert_equal(got, [vars(element) for element in wanted[at]])


def test_scores_of_beams_do_not_depend_on_the_batch() -> None:
    """Nor do the texts."""
    numbers = [str(9**power % 10 ** (power % 6 + 1)) for power in range(12)]
    wanted = TextGenerator(demo_model(), demo_tokenizer(), num_beams=3)(numbers)
    generator = TextGenerator(demo_model(), demo_tokenizer(), num_beams=3, batch_tokens=40)
    for mine, other in zip(generator(numbers[::-1])[::-1], wanted, strict=True):
        assert mine.generated_text == other.generated_text
        assert abs(mine.score - other.score) <= LIMIT


def test_a_function_for_scores() -> None:
    model = classifier_model()
    logits = {x.label: x.score for x in Classifier(model, tokenizer(), function_to_apply="none")("x")}
    sigmoid = {x.label: x.score for x in Classifier(model, tokenizer(), function_to_apply="sigmoid")("x")}
    for label, logit in logits.items():
        assert sigmoid[label] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-12)
    assert Classifier(tiny("BartForSequenceClassification", num_labels=1), tokenizer()).function_to_apply == "sigmoid"
    assert Classifier.options_of(dict(problem_type="multi_label_classification")) == dict(function_to_apply="sigmoid")
    assert Classifier.options_of(dict(problem_type=None)) == dict(function_to_apply=None)
    with pytest.raises(ValueError, match="`function_to_apply` must be"):
        Classifier(model, tokenizer(), function_to_apply="exp")  # pyright: ignore
    with pytest.raises(ValueError, match="two strings, or two lists"):
        Classifier(model, tokenizer())(["a"], "b")  # pyright: ignore
    with pytest.raises(ValueError, match="`top_k` must be at least 1. Got 0"):
        Classifier(model, tokenizer())("a", top_k=0)
    assert Classifier(model, tokenizer())([]) == []


def test_labels() -> None:
    classifier = ZeroShotClassifier(classifier_model(), tokenizer())
    each = classifier(["a", "b"], [["x", "y"], ["z"]])
    assert [{element.label for element in of} for of in each] == [{"x", "y"}, {"z"}]
    assert_equal(each[0], [vars(element) for element in classifier("a", ["x", "y"])])
    assert sum(element.score for element in each[0]) == pytest.approx(1)
    alone = classifier("b", ["z"], multi_label=True)[0].score  # one label cannot compete
    assert each[1][0].score == pytest.approx(alone, abs=1e-6) and alone < 0.5
    for labels, error, says in (
        ("ab", TypeError, "must be a list of strings"),
        (["a", ["b"]], TypeError, "or for several texts a list of such lists"),
        ([["a"]], ValueError, "Got 1 lists for 2 texts"),
        ([["a"], []], ValueError, "at least one label"),
        ([], ValueError, "at least one label"),
    ):
        with pytest.raises(error, match=says):
            classifier(["a", "b"], labels)  # pyright: ignore
    with pytest.raises(ValueError, match="must contain {}"):
        classifier("a", ["b"], hypothesis_template="This.")
    with pytest.raises(
        ValueError, match=r"The pair 'b b .*'..., 'This example is x.' has \d+ tokens, and the model 64 p"
    ):
        classifier(["a", "b " * 99], ["x", "y"], truncation=False)
    with pytest.raises(ValueError, match='one label that starts with "entail". .* LABEL_0, LABEL_1, LABEL_2'):
        ZeroShotClassifier(tiny("BartForSequenceClassification"), tokenizer())
    two = ZeroShotClassifier(
        tiny("BartForSequenceClassification", num_labels=2, id2label=("Entailment", "other")), tokenizer()
    )
    assert (two.entailment_id, two.contradiction_id) == (0, 1)


def test_masks_that_are_refused() -> None:
    filler = MaskFiller(tiny("BartForConditionalGeneration", id2label=NLI), tokenizer())
    with pytest.raises(ValueError, match="Each text must contain <mask>. Got 'b'"):
        filler(["<mask>", "b"])
    with pytest.raises(ValueError, match=r"The text 'a b b .*'... has 102 tokens, and the model 64 positions"):
        filler("a" + " b" * 98 + " <mask>")
    with pytest.raises(ValueError, match="Each of `targets` must be one token. Got 'Syrian war'"):
        filler("<mask>", targets=["Syrian war"])
    with pytest.raises(ValueError, match="`top_k` must be at least 1"):
        filler("<mask>", top_k=0)
    with pytest.raises(ValueError, match="<mask> has the id 50264, and the model's vocabulary has the ids 0 to 50263"):
        MaskFiller(tiny("BartForConditionalGeneration", vocab_size=50264), tokenizer())
    assert filler([]) == [] and len(filler("<mask>", top_k=100_000)) == 50265


def test_infilling() -> None:
    """The demo's language: a mask in place of digits; the spans are where the rest of the text leaves room."""
    filler = MaskFiller(demo_model(), demo_tokenizer())
    first, second = filler.infill("12<mask>", top_k=2, max_length=30)
    assert isinstance(first.score, float) and second.score is not None and first.score >= second.score
    assert first.sequence and first.spans is None  # it spells numbers, and does not repeat them
    assert [len(of) for of in filler.infill(["1<mask>", "<mask>3"], top_k=3)] == [3, 3]
    whole = filler.infill("<mask>", num_beams=1)[0]
    assert whole.score is None and whole.spans is not None and whole.spans[0].text == whole.sequence.strip()


@pytest.mark.parametrize(
    ["text", "sequence", "spans"],
    [
        ("No <mask> in Syria", "No way out in Syria", [(3, 10, "way out")]),
        ("No <mask> in Syria", " No in Syria\n", [(4, 4, "")]),  # nothing at all
        ("<mask> in <mask>", "War in Syria", [(0, 3, "War"), (7, 12, "Syria")]),
        ("<mask>", "  all of it ", [(2, 11, "all of it")]),
        ("a <mask> b <mask> c", "a x b y b z c", [(2, 3, "x"), (6, 11, "y b z")]),
        ("a<mask>b", "axb", [(1, 2, "x")]),
        ("No <mask> in Syria", "Not a way in syria", None),
        ("a <mask><mask> b", "a x y b", None),  # two masks side by side
        ("ab <mask> ab", "ab", None),  # one piece of the sequence cannot be both
        ("a <mask> b <mask> c", "a x c", None),
    ],
)
def test_spans(text: str, sequence: str, spans: list[tuple[int, int, str]] | None) -> None:
    found = spans_of(text, sequence, "<mask>")
    if spans is None:
        assert found is None
        return
    assert found is not None and [(span.start, span.end, span.text) for span in found] == spans
    assert all(sequence[span.start : span.end] == span.text for span in found)


def test_questions_that_are_refused() -> None:
    model = tiny("BartForQuestionAnswering", id2label=NLI)
    answerer: Any = QuestionAnswerer(model, tokenizer())
    ask = lambda **arguments: answerer(**(dict(question="Who?", context="He.") | arguments))
    assert ask().answer in "He." and ask(question=["Who?"], context=["He."]) == [ask()]
    for arguments, says in (
        (dict(question=" a" * 61), "The question '( a){30}'... has 61 tokens, and leaves its context no room in 64"),
        (dict(context=" "), "The context for 'Who\\?' is empty"),
        (dict(question=""), "The question for 'He.' is empty"),
        (dict(doc_stride=58), r"`doc_stride` must be less than the 58 tokens"),
        (dict(question=["Who?"]), "two strings, or two lists"),
        (dict(question=["Who?"], context=["a", "b"]), "equally many"),
        (dict(top_k=0), "at least 1"),
        (dict(max_seq_len=0), "`max_seq_len` must be at least 1. Got 0"),
    ):
        with pytest.raises(ValueError, match=says):
            ask(**arguments)
    broken = eqx.tree_at(lambda model: model.qa_outputs.bias, model, jnp.full((2,), jnp.nan))
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        QuestionAnswerer(broken, tokenizer())(question="Who?", context="He.")


def test_checkpoints_of_other_tasks(tmp_path: Path) -> None:
    for name, wanted in (("BartForSequenceClassification", MaskFiller), ("BartForConditionalGeneration", Classifier)):
        folder = tmp_path / name
        bart_eqx.save_pretrained(tiny(name, id2label=NLI), folder)
        tokenizer().save_pretrained(folder)
        with pytest.raises(UnsupportedCheckpointError, match=f"is a {name}. {wanted.__name__} needs a"):
            wanted.from_pretrained(folder)
    classifier = ZeroShotClassifier.from_pretrained(tmp_path / "BartForSequenceClassification", dtype=jnp.bfloat16)
    assert classifier.model.model.shared.weight.dtype == jnp.bfloat16
    assert len(classifier("x", ["a", "b"])) == 2
    filler = MaskFiller.from_pretrained(tmp_path / "BartForConditionalGeneration", batch_tokens=99)
    assert filler.engine.batch_tokens == 99 and len(filler("a <mask>")) == 5


# Vectors, scores, and texts: against sums of our own


def test_embeddings() -> None:
    """The mean of the encoder's states, and the decoder's state at the last token, of each text alone."""
    model = tiny("BartModel")
    for pooling in ("mean", "last"):
        embedder = Embedder(model, tokenizer(), pooling=pooling)
        vectors = embedder(cases.TEXTS)
        assert vectors.shape == (len(cases.TEXTS), 16) and vectors.dtype == np.float32
        for text, vector in zip(cases.TEXTS, vectors, strict=True):
            ids = tokenizer()(text).input_ids
            states = model.encode(ids) if pooling == "mean" else model(ids)
            wanted = np.asarray(states.last_hidden_state)
            np.testing.assert_allclose(vector, wanted.mean(0) if pooling == "mean" else wanted[-1], atol=1e-5)
    normal = embedder(cases.TEXTS[0], normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(normal), 1, atol=1e-6)
    np.testing.assert_allclose(normal, vectors[0] / np.linalg.norm(vectors[0]), atol=1e-6)
    np.testing.assert_allclose(Embedder(classifier_model(), tokenizer())("x").shape, (16,))
    assert embedder([]).shape == (0, 16)
    with pytest.raises(ValueError, match='`pooling` must be "mean" or "last"'):
        Embedder(model, tokenizer(), pooling="max")  # pyright: ignore
    with pytest.raises(TypeError, match="Embedder needs a BartModel or .* Got a BartForCausalLM"):
        Embedder(tiny("BartForCausalLM"), tokenizer())


def test_scores() -> None:
    """BARTScore: the mean of the log-softmax of each target's tokens, of one pair at a time, in float64."""
    model = tiny("BartForConditionalGeneration", id2label=NLI)
    scorer = Scorer(model, tokenizer(), batch_tokens=128)
    sources = [*cases.TEXTS, cases.TEXTS[5], "x"]
    targets = [*cases.TEXTS[1:], "", cases.TEXTS[5], "A much longer target than its source is. " * 5]
    for source, target, got in zip(sources, targets, scorer(sources, targets), strict=True):
        source_ids, labels = tokenizer()(source).input_ids, tokenizer()(target).input_ids
        logits = np.asarray(model(source_ids, decoder_input_ids=np.r_[2, labels[:-1]]).logits, np.float64)
        largest = logits.max(-1, keepdims=True)
        wanted = logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))
        wanted = wanted[np.arange(len(labels)), labels]
        np.testing.assert_allclose(got.token_scores, wanted, atol=1e-4)
        assert got.score == pytest.approx(wanted.mean(), abs=1e-5)
        assert got.sum == pytest.approx(sum(got.token_scores)) and len(got.tokens) == len(labels)
        assert "".join(got.tokens).isascii() is False or "".join(got.tokens) == f"<s>{target}</s>"
    assert scorer("x", "y").score == pytest.approx(scorer(["x", "zz"], ["y", "a b c"])[0].score, abs=1e-5)
    assert scorer([], []) == []
    one, other = (scorer("x", target).score for target in ("y", "a b c"))
    assert scorer.multi_ref_score("x", ["y", "a b c"]) == pytest.approx((one + other) / 2, abs=1e-5)
    both = scorer.multi_ref_score(["x", "x"], [["a b c"], ["y", "a b c"]], agg="max")
    assert both == pytest.approx([other, max(one, other)], abs=1e-5)
    for bad in (["y"], [["y"], []]):
        with pytest.raises(ValueError, match="a list for each source, each of at least one text"):
            scorer.multi_ref_score(["x", "z"], bad)
    with pytest.raises(ValueError, match="equally many. Got 2 and 1"):
        scorer(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="two strings, or two lists"):
        scorer(["a"], "c")  # pyright: ignore


def test_each_source_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one with more targets than a batch has rows, between others. Scores are those of each pair alone."""
    scorer = Scorer(demo_model(), demo_tokenizer(), batch_tokens=32)
    encoded: list[int] = []
    encode = scorer_module._encode_and_score

    def counted(model: Any, input_ids: Any, *arguments: Any) -> Any:
        encoded.append(len({tuple(row) for row in input_ids.tolist()}))  # a batch is filled up with copies
        return encode(model, input_ids, *arguments)

    monkeypatch.setattr(scorer_module, "_encode_and_score", counted)
    pairs = [("7", "seven"), ("15", "six"), *[("7", f"{word} seven") for word in "a b c d e f g h i".split()]]
    pairs += [("9", "nine"), ("15", "fifteen"), ("7", "seven")]
    got = scorer([source for source, _ in pairs], [target for _, target in pairs])
    assert sum(encoded) == 3
    for (source, target), output in zip(pairs, got, strict=True):
        assert output.score == pytest.approx(scorer(source, target).score, abs=1e-5)
    assert got[0] == got[-1] and len({output.score for output in got}) == len(pairs) - 1


def test_one_of_a_set_of_strings() -> None:
    generator = TextGenerator(demo_model(), demo_tokenizer())
    assert generator("40217").generated_text == "forty thousand two hundred and seventeen"
    choices = ["seven", "seventeen", "forty thousand", "seven hundred"]
    texts = ["7", "17", "40000", "700", "70", "18", "99"]
    for num_beams in (1, 4):
        chosen = [output.generated_text for output in generator(texts, choices=choices, num_beams=num_beams)]
        assert chosen[:4] == choices and set(chosen) <= set(choices)
    longer = TextGenerator(demo_model(), demo_tokenizer(), max_new_tokens=3, min_new_tokens=2)
    assert longer("17", choices=choices).generated_text == "seventeen"  # a choice has its own length
    several = generator("7", choices=choices, num_beams=4, num_return_sequences=3)
    assert several[0].generated_text == "seven" and {each.generated_text for each in several} <= set(choices)
    assert [len(each) for each in generator(["7", "8"], num_beams=2, num_return_sequences=2)] == [2, 2]
    for bad, says in (
        ([], "at least one string"),
        ("seven", "at least one string"),
        (["one " * 40], r"choices\[0\] needs 4\d tokens, and the model has 32"),
    ):
        with pytest.raises(ValueError, match=says):
            generator("7", choices=bad)
    with pytest.raises(ValueError, match="`choices` or `prefix_allowed_tokens`"):
        generator("7", choices=["a"], prefix_allowed_tokens=[[5]])
