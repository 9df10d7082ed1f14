"""What every head of the encoder-decoder shares: it has a `model`, and encodes as that model does."""

import equinox as eqx

from ..config import BartConfig
from .bart import BartModel


class AbstractBartHead(eqx.Module):
    """A task's parameters beside a `BartModel`. The methods that a head leaves alone are the model's own."""

    model: eqx.AbstractVar[BartModel]

    @property
    def config(self) -> BartConfig:
        return self.model.config

    @property
    def encode(self):
        """[`BartModel.encode`][bart_eqx.BartModel.encode] of `model`."""
        return self.model.encode

    @property
    def init_cache(self):
        """[`BartModel.init_cache`][bart_eqx.BartModel.init_cache] of `model`."""
        return self.model.init_cache
