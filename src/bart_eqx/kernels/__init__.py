"""Code for speed on particular machines. Each function equals the one line of mathematics that opens its docstring.

`plain()` turns all kernels off: inside that context every function computes its line as it is written.
"""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)

from .platforms import plain as plain  # noqa: E402
