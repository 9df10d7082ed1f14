"""Text generation: greedy search, sampling, beam search, prompt lookup, and the logits processors that they share.

Read `generate.py` first. It makes a `Request` (`request.py`), validates it (`arguments.py`, `checks.py`,
`host_inputs.py`, `allowed_sequences.py`), picks a search (`sample.py`, `beam_search.py`, `prompt_lookup.py`), and
returns what it found (`result.py`). Every search repeats a step in the loop of `decode_loop.py`, and calls the model
through `model_calls.py`.
"""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)
