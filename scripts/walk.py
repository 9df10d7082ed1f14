"""How far a reader walks: the files and functions of the package that one call goes through.

    PYTHONPATH=src python scripts/walk.py [--functions]

Prints, for a forward pass, greedy search and four beams of the demo model, how many files are visited, how often the
walk switches from one file to another, and how many distinct functions are entered; with `--functions` also which, in
the order in which they are first entered.

The counting: `sys.setprofile` sees every Python function that is entered during one call. A call with other shapes
comes first, so that imports, loading and beartype's work at a function's first call are done, and JAX traces again. A
switch is a function entered that lies in another file than the one entered before it; returns do not count. Layers that
are alike are traced once, so they are walked once; "again" is the forward pass of the same shapes once more, which does
not walk them at all. Lambdas and comprehensions are functions too. The type checker's wrapper is not walked. For
generation `model/` and every file that the forward pass has visited are left out: whoever reads `generate` has read the
model.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import bart_eqx


PACKAGE = Path(bart_eqx.__file__).parent
WRAPPER = "lazy_beartype.py"
# Tokens of the two sources, and `max_length`.
WARM, WALKED = (10, 9), (15, 8)


def entered(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """The file and the qualified name of every function of the package, each time that it is entered."""
    found = []

    def notice(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found.append((path.relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname))

    sys.setprofile(notice)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [(file, function) for file, function in found if file != WRAPPER]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", action="store_true", help="also list what is entered, in order")
    arguments = parser.parse_args()
    model = bart_eqx.from_pretrained("demo", bart_eqx.BartForConditionalGeneration)
    ids = {src: np.random.default_rng(src).integers(4, 40, (2, src)) for src, _ in (WARM, WALKED)}
    forward = lambda src, _: model(ids[src])
    greedy = lambda src, length: bart_eqx.generate(model, ids[src], num_beams=1, max_length=length)
    beams = lambda src, length: bart_eqx.generate(model, ids[src], num_beams=4, max_length=length)
    known: set[str] = set()
    for name, call in {"forward": forward, "again": forward, "greedy": greedy, "four beams": beams}.items():
        if name != "again":
            call(*WARM)
        walk = entered(lambda call=call: call(*WALKED))
        if call is forward:
            known |= {file for file, _ in walk}
        else:
            walk = [step for step in walk if step[0] not in known and not step[0].startswith("model/")]
        files, switches = {file for file, _ in walk}, sum(one[0] != other[0] for one, other in pairwise(walk))
        print(f"{name:<11}{len(files):3} files {switches:4} switches {len(set(walk)):4} functions", flush=True)
        if arguments.functions:
            print(*(f"    {file}: {function}" for file, function in dict.fromkeys(walk)), sep="\n")


if __name__ == "__main__":
    main()
