from .command import main as main
from .conversion import convert as convert
