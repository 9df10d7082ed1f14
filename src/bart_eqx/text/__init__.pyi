from .classifier import (
    Classifier as Classifier,
    TextClassificationOutputElement as TextClassificationOutputElement,
)
from .embedder import Embedder as Embedder
from .evaluation import evaluate as evaluate
from .mask_filler import (
    FillMaskOutputElement as FillMaskOutputElement,
    InfilledSpan as InfilledSpan,
    InfillOutput as InfillOutput,
    MaskFiller as MaskFiller,
)
from .metrics import (
    AccuracyOutput as AccuracyOutput,
    Estimate as Estimate,
    RougeOutput as RougeOutput,
    RougeScore as RougeScore,
    accuracy as accuracy,
    rouge as rouge,
)
from .question_answerer import (
    QuestionAnswerer as QuestionAnswerer,
    QuestionAnsweringOutputElement as QuestionAnsweringOutputElement,
)
from .scorer import Scorer as Scorer, ScorerOutput as ScorerOutput
from .summarizer import (
    SummarizationOutput as SummarizationOutput,
    SummarizedChunk as SummarizedChunk,
    Summarizer as Summarizer,
)
from .text_generator import Text2TextGenerationOutput as Text2TextGenerationOutput, TextGenerator as TextGenerator
from .tokenizer import Tokenizer as Tokenizer
from .tokens import TokenBatch as TokenBatch, Tokens as Tokens
from .zero_shot_classifier import (
    ZeroShotClassificationOutputElement as ZeroShotClassificationOutputElement,
    ZeroShotClassifier as ZeroShotClassifier,
)
