"""The network: a PyTree of modules, from token ids to logits."""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)
