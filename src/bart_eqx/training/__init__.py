"""What a training loop needs beside the model and an optimiser, and a loop that is ready."""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)

from .batches import batches as batches, steps_per_epoch as steps_per_epoch  # noqa: E402
from .checkpoints import Checkpoints as Checkpoints  # noqa: E402
from .collate import seq2seq_batch as seq2seq_batch  # noqa: E402
from .denoising import (  # noqa: E402
    Denoiser as Denoiser,
    DenoisingConfig as DenoisingConfig,
    span_probabilities as span_probabilities,
)
from .distillation import Distillation as Distillation  # noqa: E402
from .evaluation import mean_loss as mean_loss  # noqa: E402
from .examples import (  # noqa: E402
    classification_examples as classification_examples,
    label_names as label_names,
    read_records as read_records,
    seq2seq_examples as seq2seq_examples,
)
from .loop import NonFiniteLossError as NonFiniteLossError, Training as Training, train as train  # noqa: E402
from .losses import (  # noqa: E402
    cross_entropy as cross_entropy,
    fairseq_label_smoothing as fairseq_label_smoothing,
    flax_label_smoothing as flax_label_smoothing,
    negative_log_likelihood as negative_log_likelihood,
    token_loss_sum as token_loss_sum,
)
from .packing import denoising_examples as denoising_examples, read_documents as read_documents  # noqa: E402
from .parameters import decay_mask as decay_mask  # noqa: E402
from .plot import plot_metrics as plot_metrics  # noqa: E402
from .pseudo_labels import pseudo_labels as pseudo_labels  # noqa: E402
from .recipes import (  # noqa: E402
    CNN_DM as CNN_DM,
    MNLI as MNLI,
    PRETRAINING as PRETRAINING,
    RECIPES as RECIPES,
    XSUM as XSUM,
    Recipe as Recipe,
)
from .rematerialise import rematerialise as rematerialise  # noqa: E402
from .run_lock import RunLockedError as RunLockedError  # noqa: E402
from .shrink import (  # noqa: E402
    distil_whisper_layers as distil_whisper_layers,
    distil_whisper_supervised_layers as distil_whisper_supervised_layers,
    distilbart_layers as distilbart_layers,
    distilbart_supervised_layers as distilbart_supervised_layers,
    shrink as shrink,
)
from .step import (  # noqa: E402
    Metrics as Metrics,
    TrainState as TrainState,
    TrainStep as TrainStep,
    make_train_step as make_train_step,
)
from .task_losses import (  # noqa: E402
    causal_lm_loss as causal_lm_loss,
    multi_label_loss as multi_label_loss,
    question_answering_loss as question_answering_loss,
    regression_loss as regression_loss,
    seq2seq_loss as seq2seq_loss,
    single_label_loss as single_label_loss,
)
