"""`bart-eqx train`: a model from examples, one command for each kind of example."""

from typing import Annotated, Literal

from cyclopts import Group, Parameter

from .errors import UsageError
from .generation_options import SearchOptions
from .list_options import TextList
from .train_options import TrainFiles, TrainModel, TrainRecipe, TrainRun


_NOISE = Group("Noise", sort_key=3)


def seq2seq(
    *,
    field: str = "text",
    target_field: str = "summary",
    prefix: str | None = None,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    label_smoothing: float | None = None,
    score: Literal["rouge1", "rouge2", "rougeL", "rougeLsum", "accuracy", "validation_loss"] = "rougeL",
    files: TrainFiles,
    model: TrainModel,
    recipe: TrainRecipe | None = None,
    run: TrainRun | None = None,
    search: SearchOptions | None = None,
) -> int:
    """Summaries, or any other texts from texts.

    Options of the search say how texts are generated at evaluations. They become settings of the model, too.

    For example:

        bart-eqx train seq2seq --train train.csv --validation held-out.csv -m bart-large -o run --epochs 3
        bart-eqx train seq2seq --config run.yaml -o run --learning-rate 1e-5
        bart-eqx summarize "a long text ..." -m run/model

    Args:
        field: The field with the text that is read.
        target_field: The field with the text that is to be written.
        prefix: Put in front of each text; by default what the checkpoint says.
        max_source_length: Tokens of a text; the end of a longer one is dropped. By default as the model has positions,
            up to 1024.
        max_target_length: Tokens of a target, likewise; by default up to 128.
        label_smoothing: The part of the probability that targets give evenly to all words; by default the recipe's.
        score: What decides which model is the best. With validation_loss, no texts are generated.
    """
    from .train_tasks import train_seq2seq

    return train_seq2seq(
        files,
        model,
        recipe or TrainRecipe(),
        run or TrainRun(),
        search or SearchOptions(),
        fields=(field, target_field),
        prefix=prefix,
        lengths=(max_source_length, max_target_length),
        label_smoothing=label_smoothing,
        score=score,
    )


def classify(
    *,
    field: str = "text",
    pair_field: str | None = None,
    label_field: str = "label",
    labels: TextList = None,
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None,
    max_length: int | None = None,
    files: TrainFiles,
    model: TrainModel,
    recipe: TrainRecipe | None = None,
    run: TrainRun | None = None,
) -> int:
    """Labels of texts, or of pairs of texts; or numbers.

    What the best model has is the highest accuracy; of several labels, the highest micro F1; of numbers, the lowest
    mean squared error.

    For example:

        bart-eqx train classify --train train.jsonl --validation held-out.jsonl -m bart-base -o run --epochs 10
        bart-eqx train classify --train pairs.csv --field premise --pair-field hypothesis -m bart-large -o run
        bart-eqx classify "a text" -m run/model

    Args:
        field: The field with the text.
        pair_field: The field with the second text.
        label_field: The field with the label: a string or an integer; a list of them, of which any number hold; or for
            a regression a number.
        labels: All labels, in the order of the model's outputs: separated by commas, a JSON list, or @FILE with one on
            each line. By default those of the training file, sorted.
        problem_type: What the labels are; by default what the first record has. A CSV file has strings only, so that
            numbers need --problem-type regression.
        max_length: Tokens of a text, or pair; the end of a longer one is dropped. By default as the model has
            positions, up to 1024.
    """
    from .train_tasks import train_classify

    if labels is not None and len(set(labels)) != len(labels):
        raise UsageError("--labels must be different from each other.")
    return train_classify(
        files,
        model,
        recipe or TrainRecipe(),
        run or TrainRun(),
        fields=(field, pair_field, label_field),
        labels=labels,
        problem_type=problem_type,
        max_length=max_length,
    )


def denoise(
    *,
    field: str = "text",
    max_length: int | None = None,
    label_smoothing: float | None = None,
    mask: Annotated[float, Parameter(group=_NOISE)] = 0.3,
    poisson_lambda: Annotated[float, Parameter(group=_NOISE)] = 3.5,
    replace_length: Annotated[Literal[-1, 0, 1], Parameter(group=_NOISE)] = 1,
    mask_random: Annotated[float, Parameter(group=_NOISE)] = 0.1,
    insert: Annotated[float, Parameter(group=_NOISE)] = 0.0,
    rotate: Annotated[float, Parameter(group=_NOISE)] = 0.0,
    permute_sentences: Annotated[float, Parameter(group=_NOISE)] = 1.0,
    full_stop: Annotated[str, Parameter(group=_NOISE)] = ".",
    files: TrainFiles,
    model: TrainModel,
    recipe: TrainRecipe | None = None,
    run: TrainRun | None = None,
) -> int:
    """BART's pre-training: restore texts from noise.

    --train may also be a .txt file, in which blank lines stand between documents. Lines of a document are packed into
    blocks. The best model is the one with the lowest held-out loss.

    For example:

        bart-eqx train denoise --train texts.txt --validation held-out.txt -m bart-base -o run --total-steps 5000
        bart-eqx train denoise --train texts.jsonl -m ./config-and-tokenizer --from-scratch -o run --epochs 10
        bart-eqx fill "a text with a <mask>" -m run/model

    Args:
        field: The field with the text, in a .jsonl or .csv file.
        max_length: Tokens of a block; by default as the model has positions, up to 512.
        label_smoothing: The part of the probability that targets give evenly to all words; by default the recipe's.
        mask: The words to mask, as a fraction of the words.
        poisson_lambda: The mean length of a span, in words; 0 makes each span one word.
        replace_length: What a span becomes: one token (1), nothing (0), or as many tokens as it has (-1).
        mask_random: The fraction of spans that become random tokens instead of <mask>.
        insert: Tokens to insert, as a fraction of the tokens.
        rotate: The fraction of texts that are rotated to begin at a random token.
        permute_sentences: The fraction of a text's sentences that change places.
        full_stop: The token that ends a sentence.
    """
    from .train_tasks import train_denoise

    noise = dict(
        mask=mask,
        poisson_lambda=poisson_lambda,
        replace_length=replace_length,
        mask_random=mask_random,
        insert=insert,
        rotate=rotate,
        permute_sentences=permute_sentences,
    )
    return train_denoise(
        files,
        model,
        recipe or TrainRecipe(),
        run or TrainRun(),
        field=field,
        max_length=max_length,
        label_smoothing=label_smoothing,
        noise=noise,
        full_stop=full_stop,
    )
