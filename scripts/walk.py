"""Count the files and functions of the package that a reader of one call must follow.

    PYTHONPATH=src python scripts/walk.py [--functions]

Prints, for a forward pass, greedy search and four beams of the demo model, the number of files visited, of switches
from one file to another, and of distinct functions entered; with `--functions` also their names, in the order in which
they are first entered.

`sys.setprofile` reports every Python function that is entered during one call. A call with other shapes comes first:
after it, imports, loading and beartype's work at a function's first call are done, and JAX traces again. A switch is a
function in another file than the one entered before it; returns do not count. Layers of one structure are traced once,
and so counted once; "again" is a second forward pass with the same shapes, which does not enter them. Lambdas and
comprehensions are functions too. The wrappers that check types and explain arguments do not count. For generation,
`model/` and every file that the forward pass visited do not count: a reader of `generate` has read the model.
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
WRAPPERS = ("lazy_beartype.py", "signature.py")
# Tokens of the two sources, and `max_length`.
WARM, WALKED = (10, 9), (15, 8)


def entered(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """The file and the qualified name of a function of the package, for each time that one is entered."""
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
    return [(file, function) for file, function in found if file not in WRAPPERS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", action="store_true", help="also list the functions, in order")
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
