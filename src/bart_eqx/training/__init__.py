"""What a training loop needs beside the model and an optimiser."""

from .losses import cross_entropy as cross_entropy
from .rematerialise import rematerialise as rematerialise
