"""What a training loop needs beside the model and an optimiser."""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)

from .losses import cross_entropy as cross_entropy  # noqa: E402
from .rematerialise import rematerialise as rematerialise  # noqa: E402
