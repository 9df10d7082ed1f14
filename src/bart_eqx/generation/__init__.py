"""Text generation: greedy search, sampling, beam search, prompt lookup, and the logits processors that they share.

Read `generate.py` first. It validates a call (`arguments.py`, `checks.py`) and picks a search (`sample.py`,
`beam_search.py`, `prompt_lookup.py`); every search drives the model through `decode_loop.py`.
"""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)
