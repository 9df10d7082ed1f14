from . import batch as batch, kernels as kernels, parallel as parallel, text as text, training as training
from .checkpoint.errors import CheckpointError as CheckpointError
from .checkpoint.load import from_flax as from_flax, from_pretrained as from_pretrained
from .checkpoint.save import save_pretrained as save_pretrained, to_flax as to_flax
from .config import BartConfig as BartConfig
from .generation.generate import generate as generate, stream as stream
from .generation.result import GenerationResult as GenerationResult
from .generation_config import GenerationConfig as GenerationConfig
from .kernels.attention import AbstractDotProduct as AbstractDotProduct, DotProduct as DotProduct
from .model.attention import AbstractAttention as AbstractAttention, BartAttention as BartAttention
from .model.bart import BartModel as BartModel
from .model.cache import DecoderCache as DecoderCache, KVCache as KVCache
from .model.causal_lm import BartForCausalLM as BartForCausalLM
from .model.conditional_generation import BartForConditionalGeneration as BartForConditionalGeneration
from .model.decoder import (
    AbstractDecoderLayer as AbstractDecoderLayer,
    BartDecoderLayer as BartDecoderLayer,
    EncodedSource as EncodedSource,
)
from .model.embeddings import (
    AbstractEmbedding as AbstractEmbedding,
    AbstractPositionalEmbedding as AbstractPositionalEmbedding,
)
from .model.encoder import AbstractEncoderLayer as AbstractEncoderLayer, BartEncoderLayer as BartEncoderLayer
from .model.fused import fuse_attention as fuse_attention
from .model.language_model import (
    AbstractCausalLM as AbstractCausalLM,
    AbstractLanguageModel as AbstractLanguageModel,
    AbstractSeq2SeqLM as AbstractSeq2SeqLM,
)
from .model.layers import (
    AbstractLinear as AbstractLinear,
    AbstractResidual as AbstractResidual,
    PostNorm as PostNorm,
    PreNorm as PreNorm,
)
from .model.masks import shift_tokens_right as shift_tokens_right
from .model.outputs import BaseModelOutput as BaseModelOutput
from .model.quantized import quantize as quantize
from .model.question_answering import BartForQuestionAnswering as BartForQuestionAnswering
from .model.resize import resize_token_embeddings as resize_token_embeddings
from .model.sequence_classification import BartForSequenceClassification as BartForSequenceClassification

__version__: str
