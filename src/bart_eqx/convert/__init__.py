"""Converting checkpoints of Hugging Face's BART: `python -m bart_eqx.convert SOURCE`, or `convert` from Python.

Arrays are copied from file to file. No model is built, and JAX is not imported.
"""

from .command import main as main
from .conversion import convert as convert
