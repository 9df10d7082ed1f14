"""`docs/migration.md` as a program: its blocks, and the rows of its tables that have a call on either side."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


PAGE = Path(__file__).parents[1] / "docs/migration.md"
STEP = re.compile(
    r'^```python(?P<theirs> title="transformers 4.57")?\n(?P<block>.*?)^```$'
    r"|^\| `(?P<old>[^`]+)` \| `(?P<new>[^`]+)` \|$",
    flags=re.DOTALL | re.MULTILINE,
)


def run(ours: dict[str, Any], theirs: dict[str, Any] | None, compare: Callable[[Any, Any], None]) -> int:
    """Run our code in one namespace and, unless it is `None`, that of transformers in the other.

    `compare` gets both results of each row. Returns the number of rows.
    """
    rows = 0
    for step in STEP.finditer(PAGE.read_text()):
        if step["block"] is None:
            rows += 1
            result = eval(step["new"], ours)
            if theirs is not None:
                compare(result, eval(step["old"], theirs))
        elif not step["theirs"]:
            exec(step["block"], ours)
        elif theirs is not None:
            exec(step["block"], theirs)
    return rows
