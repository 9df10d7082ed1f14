"""The stored cases of `scripts/make_generation_references.py`, and how ours are run on them."""

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import bart_eqx
from bart_eqx.generation.processors import sampling


FOLDER = Path(__file__).parent / "references" / "generation"

# A preference by less than this may fall otherwise for rounding alone. Such cases are compared and counted too.
NEAR_TIE = 1e-5
SCORE_TOLERANCE = 1e-4  # absolute and relative: negative length penalties make scores of hundreds

FILTERS: dict[str, Any] = dict(
    temperature=sampling.Temperature,
    top_k=sampling.TopK,
    top_p=sampling.TopP,
    min_p=sampling.MinP,
    top_h=sampling.TopH,
    typical_p=sampling.Typical,
    epsilon_cutoff=sampling.EpsilonCutoff,
    eta_cutoff=sampling.EtaCutoff,
)


def make_filter(name: str, value: float, *keep: int) -> Any:
    return FILTERS[name](value if name == "top_k" else jnp.asarray(value, jnp.float32), *keep)


@functools.cache
def cases(file: str) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress((FOLDER / f"{file}.json.gz").read_bytes()))["cases"]


@functools.cache
def stored_model(name: str) -> Any:
    return bart_eqx.from_pretrained(FOLDER / name)


def mismatch(case: dict[str, Any], **more: Any) -> str | None:
    """What our `generate` does differently in a case: nothing, if all is well."""
    options = case["options"] | more
    arrays = {name: np.array(options.pop(name)) for name in ("decoder_input_ids",) if name in options}
    result = bart_eqx.generate(
        stored_model(case["model"]),
        np.array(case["input_ids"]),
        np.array(case["attention_mask"]),
        logits_processor=[make_filter(name, value) for name, value in options.pop("filters", [])],
        prefix_allowed_tokens=options.pop("allowed", None),
        pad_to_multiple_of=17,  # one program for all lengths
        **arrays,
        **options,
    )
    # A constrained search may go on to a word that another option bars, here as there: its score is minus infinity.
    possible = np.array([0.0] if case["scores"] is None else case["scores"]) > -np.inf
    # There, a barred end is raised by its absolute value: by infinity.
    if (result.finite != possible).any() and "exponential_decay_length_penalty" not in case["options"]:
        return f"finite {result.finite.tolist()}"
    expected = np.array(case["sequences"])
    ours = np.asarray(result.sequences)
    width = expected.shape[1]
    if (ours[:, width:] != 1).any() or (ours[:, :width] != expected).any():
        return f"{ours.tolist()} for {expected.tolist()}"
    if case["scores"] is not None:
        assert result.scores is not None
        theirs = np.array(case["scores"])
        close = np.isclose(result.scores, theirs, rtol=SCORE_TOLERANCE, atol=SCORE_TOLERANCE)  # also of two infinities
        if not close.all():
            return f"scores {result.scores.tolist()} for {case['scores']}"
    return None
