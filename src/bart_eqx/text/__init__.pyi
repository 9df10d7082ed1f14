from .tokenizer import Tokenizer as Tokenizer
from .tokens import TokenBatch as TokenBatch, Tokens as Tokens
