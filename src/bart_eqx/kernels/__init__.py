"""What exists for a machine's sake. Each function equals the one line of mathematics that opens its docstring.

`plain()` turns all of it off: inside that context every function computes its line as it is written.
"""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)

from .platforms import plain as plain  # noqa: E402
