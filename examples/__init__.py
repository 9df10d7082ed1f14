"""What researchers change, each in a file of its own. The shapes in their signatures are checked, as in `bart_eqx`."""

from bart_eqx.lazy_beartype import check_signatures_in


check_signatures_in(__name__)
