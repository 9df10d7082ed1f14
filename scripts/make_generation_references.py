"""Make the stored references of generation with Hugging Face's PyTorch.

    ENVIRONMENT_A/bin/python scripts/make_generation_references.py  # torch, transformers 5: everything but two modes
    ENVIRONMENT_B/bin/python scripts/make_generation_references.py  # torch, transformers 4.55: groups, forced words

transformers 5 moved diverse and constrained beam search out of the package; 4.55 is the last release that has them. Run
A first: it makes the models. A is `pip install torch 'transformers>=5'`, B is `pip install torch transformers==4.55.4`;
on Linux, torch brings gigabytes of CUDA unless a build for CPU is chosen.

A case is one call of `generate` for two sources. Its options are drawn at random within a family; a family fixes the
options on which our compiled program depends. Each case stores the smallest margin between two scores that its search
had to put in order: a margin below rounding may fall either way, and must be counted, not hidden.
"""

import contextlib
import gzip
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as lp


TARGET = Path(__file__).parents[1] / "tests" / "references" / "generation"
VARIATIONS = 18
VOCAB, PAD, EOS, BOS = 53, 1, 2, 0
FIRST_WORD = 5  # ids below are special

FIVE = transformers.__version__.startswith("5")
FINAL_SCORES: list[torch.Tensor] = []

SIZES = dict(
    vocab_size=VOCAB,
    max_position_embeddings=24,
    encoder_ffn_dim=13,
    decoder_ffn_dim=17,
    dropout=0.0,
    forced_eos_token_id=None,
)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "unequal": (
        "BartForConditionalGeneration",
        dict(d_model=12, encoder_layers=1, encoder_attention_heads=2, decoder_layers=2, decoder_attention_heads=3),
    ),
    "untied": (
        "BartForConditionalGeneration",
        dict(
            d_model=10,
            encoder_layers=2,
            encoder_attention_heads=5,
            decoder_layers=1,
            decoder_attention_heads=2,
            scale_embedding=True,
            tie_word_embeddings=False,
        ),
    ),
    "causal": (
        "BartForCausalLM",
        dict(d_model=12, encoder_layers=1, encoder_attention_heads=2, decoder_layers=1, decoder_attention_heads=3),
    ),
}


def make_model(name: str, seed: int) -> Any:
    """Weights under which logits differ by units, and sequences end at various places."""
    cls, sizes = MODELS[name]
    model = getattr(transformers, cls)(transformers.BartConfig(**SIZES, **sizes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            draw = torch.randn(tensor.shape, generator=generator)
            if key.endswith("bias"):
                tensor.copy_(0.3 * draw)
            elif "norm" in key:
                tensor.copy_(1 + 0.3 * draw)
            elif "embed" in key or "shared" in key:
                tensor.copy_(0.7 * draw)
            else:
                tensor.copy_(1.5 * draw / tensor.shape[-1] ** 0.5)
        if cls == "BartForConditionalGeneration":
            model.final_logits_bias[0, EOS] += 1.5
        if name == "untied":  # transformers 5 would read three tables, version 4 and ours read one
            table = model.model.shared.weight
            model.model.encoder.embed_tokens.weight.copy_(table)
            model.model.decoder.embed_tokens.weight.copy_(table)
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=EOS
    )
    return model


def words(rng: np.random.Generator, *shape: int) -> list:
    return rng.integers(FIRST_WORD, VOCAB, shape).tolist()


def greedy(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(6, 17)),
        min_length=int(rng.integers(1, 6)),
        repetition_penalty=float(rng.uniform(0.7, 1.8)),
    )


def greedy_forced(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(6, 17)),
        no_repeat_ngram_size=2,
        forced_bos_token_id=int(rng.integers(FIRST_WORD, VOCAB)),
        forced_eos_token_id=EOS,
        begin_suppress_tokens=words(rng, 3),
    )


def greedy_biased(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(6, 17)),
        sequence_bias=[
            [words(rng, 1), float(rng.normal() * 3)],
            [words(rng, 1), float(rng.normal() * 3)],
            [words(rng, 2), 9.0],
            [words(rng, 2), -9.0],
        ],
        bad_words_ids=[*words(rng, 6, 1), *words(rng, 8, 2), [EOS]],
        suppress_tokens=words(rng, 4),
    )


def greedy_source(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=16,
        encoder_repetition_penalty=float(rng.uniform(0.6, 2.5)),
        encoder_no_repeat_ngram_size=2,
        exponential_decay_length_penalty=[int(rng.integers(1, 5)), float(rng.uniform(1.05, 1.6))],
        eos_token_id=[EOS, int(rng.integers(FIRST_WORD, VOCAB))],
        remove_invalid_values=True,
        renormalize_logits=True,
    )


def beams(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(5, 17)),
        num_beams=4,
        num_return_sequences=4,
        length_penalty=float(rng.choice([-1.5, 0.0, 0.5, 1.0, 2.0])),
        min_length=int(rng.integers(1, 5)),
    )


def beams_early(rng: np.random.Generator) -> dict[str, Any]:
    return beams(rng) | dict(early_stopping=True)


def beams_never(rng: np.random.Generator) -> dict[str, Any]:
    return beams(rng) | dict(early_stopping="never", num_return_sequences=1)


def beams_cnn(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(8, 17)),
        min_length=int(rng.integers(2, 7)),
        num_beams=4,
        early_stopping=True,
        length_penalty=2.0,
        no_repeat_ngram_size=3,
        forced_bos_token_id=BOS,
        forced_eos_token_id=EOS,
    )


def beams_processed(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(6, 17)),
        num_beams=3,
        num_return_sequences=2,
        repetition_penalty=float(rng.uniform(0.8, 1.5)),
        sequence_bias=[[words(rng, 2), 5.0], [words(rng, 1), float(rng.normal() * 2)]],
        bad_words_ids=[*words(rng, 4, 1), *words(rng, 8, 2)],
        eos_token_id=[EOS, int(rng.integers(FIRST_WORD, VOCAB))],
        exponential_decay_length_penalty=[2, float(rng.uniform(1.01, 1.3))],
        renormalize_logits=True,
    )


def beams_filtered(rng: np.random.Generator) -> dict[str, Any]:
    """The filters of sampling, as custom processors: without a draw, tokens can be compared."""
    return dict(
        max_length=int(rng.integers(6, 17)),
        num_beams=3,
        filters=[
            ["temperature", float(rng.uniform(0.5, 2.0))],
            ["top_k", 12],
            ["top_p", float(rng.uniform(0.6, 0.95))],
            ["typical_p", float(rng.uniform(0.5, 0.95))],
            ["min_p", float(rng.uniform(0.001, 0.05))],
        ],
    )


def beams_trie(rng: np.random.Generator) -> dict[str, Any]:
    sequences = [words(rng, 1 + i % 5) for i in range(12)]
    sequences += [sequences[i][: 1 + i % 3] + words(rng, 2) for i in range(8)]
    return dict(max_length=12, num_beams=3, num_return_sequences=2, allowed=sequences)


def beams_prompted(rng: np.random.Generator) -> dict[str, Any]:
    prompt = [[EOS, *row] for row in words(rng, 2, 3)]
    return dict(
        num_beams=3,
        max_new_tokens=12,
        min_new_tokens=int(rng.integers(1, 6)),
        length_penalty=float(rng.choice([-1.0, 1.0])),
        forced_eos_token_id=EOS,
        decoder_input_ids=prompt,
    )


def greedy_prompted(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_new_tokens=12,
        min_new_tokens=int(rng.integers(1, 6)),
        no_repeat_ngram_size=1,
        begin_suppress_tokens=words(rng, 5),
        decoder_input_ids=words(rng, 2, 3),  # without the start token, which transformers puts before it
    )


def groups(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(6, 17)),
        num_beams=6,
        num_beam_groups=3,
        num_return_sequences=4,
        diversity_penalty=float(rng.uniform(0.2, 3.0)),
        length_penalty=float(rng.choice([-0.5, 1.0, 2.0])),
        repetition_penalty=1.2,
    )


def groups_early(rng: np.random.Generator) -> dict[str, Any]:
    """With a likely end: a group that is done continues with padding, which the next group's penalty sees."""
    likely_end = [[[EOS], float(rng.uniform(1, 4))]]
    smaller = dict(num_beams=4, num_beam_groups=2, num_return_sequences=4)
    return groups(rng) | smaller | dict(early_stopping=True, sequence_bias=likely_end, diversity_penalty=3.0)


def forced_words(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_length=int(rng.integers(10, 17)),
        num_beams=4,
        num_return_sequences=2,
        force_words_ids=[words(rng, 2), words(rng, 1), words(rng, 3)],
        length_penalty=float(rng.choice([0.5, 1.0])),
        early_stopping=True,
    )


def forced_alternatives(rng: np.random.Generator) -> dict[str, Any]:
    drawn = rng.permutation(np.arange(FIRST_WORD, VOCAB)).tolist()
    return dict(
        max_length=int(rng.integers(8, 17)),
        num_beams=5,
        force_words_ids=[[drawn[:1], drawn[1:3], drawn[3:6], [drawn[1], drawn[7]]], drawn[8:10]],
        no_repeat_ngram_size=3,
    )


def causal_greedy(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_new_tokens=10,
        repetition_penalty=float(rng.uniform(1.0, 1.6)),
        min_new_tokens=int(rng.integers(1, 5)),
        encoder_repetition_penalty=float(rng.uniform(0.5, 2.0)),
        suppress_tokens=words(rng, 3),
    )


def causal_beams(rng: np.random.Generator) -> dict[str, Any]:
    return dict(max_new_tokens=10, num_beams=3, num_return_sequences=2, length_penalty=float(rng.uniform(-1, 2)))


def causal_beams_processed(rng: np.random.Generator) -> dict[str, Any]:
    return dict(
        max_new_tokens=10, num_beams=4, early_stopping="never", no_repeat_ngram_size=2, encoder_no_repeat_ngram_size=2,
        eos_token_id=[EOS, *words(rng, 2)],
    )  # fmt: skip


FAMILIES = dict(
    transformers5=dict(
        unequal=[greedy, greedy_forced, greedy_biased, greedy_source, beams, beams_early, beams_never, beams_cnn,
                 beams_processed, beams_filtered, beams_trie, beams_prompted, greedy_prompted],
        untied=[greedy, greedy_forced, greedy_biased, greedy_source, beams, beams_early, beams_never, beams_cnn,
                beams_processed, beams_filtered, beams_trie, beams_prompted, greedy_prompted],
        causal=[causal_greedy, causal_beams, causal_beams_processed],
    ),
    transformers4=dict(
        unequal=[groups, groups_early, forced_words, forced_alternatives],
        untied=[groups, groups_early, forced_words, forced_alternatives],
    ),
)  # fmt: skip

FILTERS = dict(
    temperature=lp.TemperatureLogitsWarper,
    top_k=lp.TopKLogitsWarper,
    top_p=lp.TopPLogitsWarper,
    typical_p=lp.TypicalLogitsWarper,
    min_p=lp.MinPLogitsWarper,
    epsilon_cutoff=lp.EpsilonLogitsWarper,
    eta_cutoff=lp.EtaLogitsWarper,
)


def allowed_after(sequences: list[list[int]], prompt_length: int) -> Any:
    """`prefix_allowed_tokens_fn`: one of these sequences, then EOS; only EOS after any other prefix."""
    tree: dict = {}
    for sequence in sequences:
        node = tree
        for token in [*sequence, EOS]:
            node = node.setdefault(token, {})

    def allowed(_: int, row: torch.Tensor) -> list[int]:
        node = tree
        for token in row.tolist()[prompt_length:]:
            node = node.get(token, {})
        return list(node) or [EOS]

    return allowed


@contextlib.contextmanager
def margins() -> Iterator[list[float]]:
    """The smallest difference between two scores that each call of `topk` or `argmax` puts in order."""
    found: list[float] = []

    def note(values: torch.Tensor, k: int) -> None:
        best = values.double().topk(min(k + 1, values.shape[-1]), dim=-1).values
        gaps = (best[..., :-1] - best[..., 1:])[(best[..., 1:] > -1e8)]
        if gaps.numel():
            found.append(float(gaps.min()))

    def noting(function: Any, count: Any) -> Any:
        def wrapped(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if values.is_floating_point() and values.ndim and values.dtype != torch.float64:
                note(values, count(values, *args, **kwargs))
            return function(values, *args, **kwargs)

        return wrapped

    with (
        mock.patch.object(torch, "topk", noting(torch.topk, lambda values, k=None, *a, **kw: k)),
        mock.patch.object(torch, "argmax", noting(torch.argmax, lambda values, *a, **kw: 1)),
    ):
        yield found


def run(model: Any, name: str, options: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    length = 9
    source = rng.integers(FIRST_WORD, VOCAB, (2, length))
    source[:, -1] = EOS
    mask = np.ones_like(source)
    # For options that read the source's tokens, transformers counts its padding as tokens: see docs/generation.md.
    ragged = name != "causal" and not any(option.startswith("encoder") for option in options)
    if ragged:
        source[1, length - 4 :] = [EOS, PAD, PAD, PAD]
        mask[1, length - 3 :] = 0
    given = dict(options)
    filters = given.pop("filters", [])
    if "allowed" in given:
        given["prefix_allowed_tokens_fn"] = allowed_after(given.pop("allowed"), 1)
    if "decoder_input_ids" in given:
        given["decoder_input_ids"] = torch.tensor(given["decoder_input_ids"])
    if name == "causal":
        source = source[:, :4]
        mask = mask[:, :4]
    custom = lp.LogitsProcessorList([FILTERS[filter_](value) for filter_, value in filters])
    with torch.no_grad(), margins() as found:
        out = model.generate(
            torch.tensor(source),
            attention_mask=torch.tensor(mask),
            logits_processor=custom,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=FIVE,
            **given,
        )
    scores = getattr(out, "sequences_scores", None) if FIVE else FINAL_SCORES.pop()
    return dict(
        input_ids=source.tolist(),
        attention_mask=mask.tolist(),
        options=options,
        sequences=out.sequences.tolist(),
        scores=None if scores is None else [float(f"{score:.7g}") for score in scores.tolist()],
        margin=min(found),
    )


def processed_scores() -> None:
    """The filters of sampling, each applied to the same random scores."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((64, VOCAB), generator=generator) * torch.rand((64, 1), generator=generator) * 6
    logits[::7, ::3] = -torch.inf
    arrays: dict[str, Any] = dict(logits=logits)
    none = torch.zeros((64, 1), dtype=torch.long)
    for name, values in dict(
        temperature=[0.5, 1.7], top_k=[1, 7, 60], top_p=[0.0, 0.3, 0.9, 1.0], min_p=[0.0, 0.1, 1.0],
        top_h=[0.2, 0.7, 0.95], typical_p=[0.1, 0.5, 0.95],
        epsilon_cutoff=[0.001, 0.05, 0.4], eta_cutoff=[0.001, 0.05, 0.4],
    ).items():  # fmt: skip
        for value in values:
            if name == "top_h":
                arrays[f"{name} {value} 1"] = lp.TopHLogitsWarper(value)(none, logits)
            elif name == "temperature":
                arrays[f"{name} {value} 1"] = lp.TemperatureLogitsWarper(value)(none, logits)
            else:
                for keep in (1, 3):
                    arrays[f"{name} {value} {keep}"] = FILTERS[name](value, min_tokens_to_keep=keep)(none, logits)
    made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    path = TARGET / "processed.npz"
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(path, made_by=np.array(made_by), **arrays)
    print(f"{path.name}  {path.stat().st_size:,} bytes, {len(arrays)} arrays")


@contextlib.contextmanager
def repaired() -> Iterator[None]:
    """4.55 with one bug fixed and one avoided.

    `DisjunctiveConstraint.copy` shares its list with the copy, so that each branch that is tried appends to the others.
    And with `output_scores` the constrained search fails if a row cannot have all its words: scores are read from the
    scorer's `finalize` instead.
    """
    from transformers.generation.beam_constraints import DisjunctiveConstraint
    from transformers.generation.beam_search import BeamSearchScorer, ConstrainedBeamSearchScorer

    copy = DisjunctiveConstraint.copy

    def copy_with_own_list(self: Any, stateful: bool = False) -> Any:
        new = copy(self, stateful)
        new.current_seq = list(new.current_seq)
        return new

    def noting(finalize: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = finalize(*args, **kwargs)
            FINAL_SCORES.append(out["sequence_scores"])
            return out

        return wrapped

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(DisjunctiveConstraint, "copy", copy_with_own_list))
        for scorer in (BeamSearchScorer, ConstrainedBeamSearchScorer):
            stack.enter_context(mock.patch.object(scorer, "finalize", noting(scorer.finalize)))
        yield


def main() -> None:
    TARGET.mkdir(exist_ok=True, parents=True)
    if FIVE:
        processed_scores()
    cases = []
    with contextlib.nullcontext() if FIVE else repaired():
        for name, families in FAMILIES["transformers5" if FIVE else "transformers4"].items():
            for seed in (0, 1):
                folder = TARGET / f"{name}-{seed}"
                if FIVE:
                    make_model(name, seed).save_pretrained(folder)
                cls = getattr(transformers, MODELS[name][0])
                model = cls.from_pretrained(folder).eval()
                for family in families:
                    for variation in range(VARIATIONS):
                        rng = np.random.default_rng([seed, variation, *family.__name__.encode()])
                        case = run(model, name, family(rng), rng)
                        cases.append(dict(model=f"{name}-{seed}", family=family.__name__) | case)
                    print(f"{name}-{seed} {family.__name__}", flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch", "numpy")}
    path = TARGET / f"{'transformers5' if FIVE else 'transformers4'}.json.gz"
    path.write_bytes(gzip.compress(json.dumps(dict(made_by=versions, cases=cases)).encode(), mtime=0))
    print(f"{path.name}  {path.stat().st_size:,} bytes, {len(cases)} cases")


if __name__ == "__main__":
    main()
