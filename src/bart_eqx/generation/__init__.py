"""Writing with a model: search, sampling, and what they are told to heed."""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)
