from .summarizer import (
    SummarizationOutput as SummarizationOutput,
    SummarizedChunk as SummarizedChunk,
    Summarizer as Summarizer,
)
from .tokenizer import Tokenizer as Tokenizer
from .tokens import TokenBatch as TokenBatch, Tokens as Tokens
