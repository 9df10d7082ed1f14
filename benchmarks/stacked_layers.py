"""Layers in a `jax.lax.scan` (`examples/stacked.py`) and unrolled, at bart-large's shapes: the gradient of a loss.

    .venv/bin/python benchmarks/stacked_layers.py [--batch 8] [--src 512] [--tgt 128] [--output FILE.json]

Measures tracing with lowering, compiling, and the temporary memory that XLA reports. Nothing is computed, and no
weights are made. Three forms: unrolled, unrolled with `rematerialise`, and stacked, which computes each layer again as
well. Run it on a quiet machine. Each form is compiled in a process of its own, in turn, `--repeats` times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


FORMS = ("unrolled", "rematerialised", "stacked")
ROOT = Path(__file__).parents[1]


def measure(form: str, layers: int, batch: int, src: int, tgt: int) -> dict[str, Any]:
    """Compile once, here."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import bart_eqx
    from bart_eqx.training import cross_entropy, rematerialise
    from examples.stacked import stack

    config = bart_eqx.BartConfig(encoder_layers=layers, decoder_layers=layers)
    new = lambda: bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0))
    model = eqx.filter_eval_shape(lambda: stack(new()) if form == "stacked" else new())
    arrays, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def loss(arrays: Any, ids: jax.Array, labels: jax.Array) -> jax.Array:
        model: Any = eqx.combine(arrays, static)
        if form == "rematerialised":
            model = rematerialise(model)
        return cross_entropy(model.lm_logits, model.model(ids, None, labels).last_hidden_state, labels)

    tokens = lambda length: jax.ShapeDtypeStruct((batch, length), jnp.int32)
    start = time.perf_counter()
    lowered = jax.jit(jax.grad(loss)).lower(arrays, tokens(src), tokens(tgt))
    between = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    memory = compiled.memory_analysis()
    assert memory is not None
    return dict(trace_s=between - start, compile_s=end - between, temporaries_gb=memory.temp_size_in_bytes / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--src", type=int, default=512)
    parser.add_argument("--tgt", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = dict(layers=arguments.layers, batch=arguments.batch, src=arguments.src, tgt=arguments.tgt)
    if arguments.form:
        print(json.dumps(measure(arguments.form, **sizes)))
        return

    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    # Without this, XLA on CPU merges the second computation of unrolled layers with the first.
    environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + " --xla_disable_hlo_passes=cse_barrier_expander"
    options = [f"--{name}={value}" for name, value in sizes.items()]
    runs: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(arguments.repeats):
        for form in FORMS:
            command = [sys.executable, __file__, f"--form={form}", *options]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            runs[form].append(json.loads(done.stdout))
    medians = {form: {name: statistics.median(run[name] for run in of) for name in of[0]} for form, of in runs.items()}
    print("| form | trace s | compile s | temporaries GB |\n|---|---|---|---|")
    for form, of in medians.items():
        print(f"| {form} | {of['trace_s']:.2f} | {of['compile_s']:.2f} | {of['temporaries_gb']:.2f} |")
    stacked, unrolled = medians["stacked"], medians["unrolled"]
    print({f"stacked / unrolled, {name}": round(stacked[name] / unrolled[name], 3) for name in stacked})
    if arguments.output:
        arguments.output.write_text(json.dumps(dict(sizes=sizes, runs=runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
