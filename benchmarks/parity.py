"""Compare this device with the stored references: forward pass, gradients, greedy search and four beams.

The references are those of the tests (`tests/references`), computed by Hugging Face's Flax and PyTorch on CPU. By
default, accelerators round the inputs of a float32 product to TF32 or bfloat16. The limits are for the highest
precision; the differences at the default precision are reported too.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bart_eqx
from generation_cases import NEAR_TIE, cases, mismatch
from support import CONFIGS, flatten, model_shapes, random_model, randomised, unflatten


REFERENCES = Path(__file__).parents[1] / "tests" / "references"
CLASS = bart_eqx.BartForConditionalGeneration
# Limits of `difference`: those of the tests, for float32 and for 8 and 11 bits of mantissa (tests/test_references.py,
# tests/oracle/test_gradients.py, tests/test_model.py).
FORWARD, GRADIENTS, BFLOAT16, TF32 = 5e-6, 2e-5, 1e-1, 1e-2


def checks(most_cases: int) -> Iterator[dict[str, Any]]:
    """Yield each check when it is done. `difference` must be at most `limit`, unless that is `None`."""
    highest = lambda: jax.default_matmul_precision("highest")
    default = lambda: jax.default_matmul_precision(None)
    yield check(
        "forward, float32, highest precision", FORWARD, highest, lambda: forward(["scaled", "unequal", "untied"])
    )
    yield tokens("greedy", most_cases)
    yield tokens("beams", most_cases)
    yield check("gradients, float32, highest precision", GRADIENTS, highest, gradients)
    yield check("forward, bfloat16", BFLOAT16, default, lambda: forward(["scaled"], jnp.bfloat16))
    if jax.default_backend() != "cpu":  # where the default is the highest
        yield check("forward, float32, default precision", TF32, default, lambda: forward(["scaled"]))
    yield tokens("beams_cnn", most_cases)
    if jax.default_backend() != "cpu":
        yield check("gradients, float32, default precision", None, default, gradients)


def check(name: str, limit: float | None, precision: Callable[[], Any], measure: Callable[[], float]) -> dict[str, Any]:
    start = time.perf_counter()
    with precision():
        difference = measure()
    passed = None if limit is None else difference <= limit  # False for NaN
    return dict(check=name, difference=difference, limit=limit, passed=passed, seconds=time.perf_counter() - start)


def difference(ours: Any, reference: np.ndarray, scale: float | None = None) -> float:
    """The largest difference, divided by `scale`, by default the reference's largest absolute value. NaN stays NaN."""
    ours = np.asarray(ours, np.float32)
    return float(np.abs(ours - reference).max() / (np.abs(reference).max() if scale is None else scale))


def stored(name: str, prefix: str) -> dict[str, np.ndarray]:
    arrays = np.load(REFERENCES / f"{name}.npz")
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


def forward(config_names: list[str], dtype: Any = jnp.float32) -> float:
    """The difference of the logits, the last hidden states and every kind of attention weights."""
    run = eqx.filter_jit(lambda model, inputs: model(**inputs, output_hidden_states=True, output_attentions=True))
    found = []
    for config_name in config_names:
        name = f"{CLASS.__name__}-{config_name}"
        out = run(random_model(CLASS, bart_eqx.BartConfig(**CONFIGS[config_name]), dtype), stored(name, "input."))
        for field, wanted in stored(name, "output.").items():
            got = getattr(out, field)
            found.append(difference(got[-1] if isinstance(got, tuple) else got, wanted))
    return float(np.max(found))  # NaN stays NaN


def gradients() -> float:
    name, config = "gradients-scaled", bart_eqx.BartConfig(**CONFIGS["scaled"])
    weights, gain = stored(name, "weights")[""], float(stored(name, "gain")[""])
    model = bart_eqx.from_flax(unflatten(randomised(model_shapes(CLASS, config), gain=gain)), config, CLASS)
    loss = lambda model, inputs: jnp.mean(jnp.tanh(model(**inputs).logits / 4) * weights)
    got = flatten(bart_eqx.to_flax(eqx.filter_jit(eqx.filter_grad(loss))(model, stored(name, "input."))))
    wanted = stored(name, "gradient.")
    del wanted["final_logits_bias"]  # a buffer: its gradient is zero
    found = []
    for parameter, value in wanted.items():
        # A key bias adds the same to all scores of a query: its gradient is rounding, on the scale of a query bias's.
        twin = wanted[parameter.replace("k_proj", "q_proj")] if parameter.endswith("k_proj.bias") else value
        found.append(difference(got[parameter], value, float(np.abs(twin).max())))
    return float(np.max(found))


def tokens(family: str, most_cases: int) -> dict[str, Any]:
    """Equal to the tokens of transformers 5. The difference is the share of unequal cases; cases in which rounding may
    decide are counted separately."""
    start = time.perf_counter()
    chosen = [case for case in cases("transformers5") if case["family"] == family and "unequal" in case["model"]]
    chosen = chosen[:most_cases]
    with jax.default_matmul_precision("highest"):
        wrong = [case for case in chosen if mismatch(case) is not None]
    near = sum(case["margin"] < NEAR_TIE for case in wrong)
    share = (len(wrong) - near) / len(chosen)
    seconds = time.perf_counter() - start
    return dict(
        check=f"tokens, {family}, {len(chosen)} cases, highest precision",
        difference=share,
        limit=0.0,
        passed=share == 0,
        near_ties_that_fell_otherwise=near,
        seconds=seconds,
    )
