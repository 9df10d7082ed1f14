"""Train `demo-text`, the checkpoint in the package that reads and writes English: it summarises, and fills masks.

    .venv/bin/python scripts/train_text_demo.py [--output FOLDER] [--work FOLDER]

The texts are Debian's descriptions of its packages, whose one-line synopsis is the summary. `apt-get` brings them, from
the mirror that the machine is set up with. They are split by source package, whose binary packages share phrases.

1. A byte-level BPE of 6,000 tokens is trained, as BART's.
2. A model from random weights is pre-trained by denoising.
3. It goes on with denoising and summarisation, in equal parts. `summarize: ` stands in front of a text to summarise, as
   in T5, so that one model does both.
4. A student with half the decoder layers is distilled from it. It is measured and not shipped.

The loop is the package's own: a run that is stopped goes on, in the same `--work`. It takes less than two hours on two
CPU cores. The last lines are the figures of docs/demo-text.md.
"""

import argparse
import collections
import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import blake3
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import bart_eqx
from bart_eqx.text import MaskFiller, Summarizer, Tokenizer, rouge
from bart_eqx.training import (
    PRETRAINING,
    Denoiser,
    DenoisingConfig,
    Distillation,
    Recipe,
    batches,
    distil_whisper_layers,
    fairseq_label_smoothing,
    make_train_step,
    seq2seq_examples,
    seq2seq_loss,
    shrink,
    train,
)


SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PREFIX = "summarize: "
LENGTH = 192  # positions
SUMMARY_LENGTH = 40
MIN_WORDS = 30  # of a description to summarise
SAMPLE = 300
WORD = r"(?<= )[A-Za-z]+"
FILLED_LENGTH = 400  # characters of a text in which a word is masked
ROOM = 16  # positions that are left to the tokens that noise adds
CONFIG = bart_eqx.BartConfig(
    vocab_size=6000,
    max_position_embeddings=LENGTH,
    d_model=192,
    encoder_layers=2,
    encoder_attention_heads=3,
    encoder_ffn_dim=768,
    decoder_layers=4,
    decoder_attention_heads=3,
    decoder_ffn_dim=768,
    dropout=0.0,
    forced_bos_token_id=0,
)
PRETRAIN = dataclasses.replace(
    PRETRAINING, learning_rate=6e-4, warmup_steps=300, total_steps=2200, end_learning_rate=4e-4, weight_decay=0.01,
    b2=0.98, clip_norm=1.0, batch_tokens=2048, micro=1,
)  # fmt: skip
FINETUNE = dataclasses.replace(
    PRETRAIN, learning_rate=6e-4, warmup_steps=100, total_steps=5000, end_learning_rate=0.0, label_smoothing=0.1
)
DISTIL = dataclasses.replace(FINETUNE, warmup_steps=50, total_steps=800)
GENERATION = dict(max_length=48, num_beams=4, early_stopping=True)
DENOISED = 10_000  # texts among the summaries of the second training, and of the third


@dataclasses.dataclass(frozen=True)
class Package:
    """A package's description, and its synopsis."""

    name: str
    source: str
    synopsis: str
    text: str

    @property
    def family(self) -> str:
        """The source package without its version: gcc-11 and gcc-12 are one."""
        return re.sub(r"[\d.]+", "", self.source)


def _hash(text: str) -> int:
    return int.from_bytes(blake3.blake3(text.encode()).digest(8), "big")


def download(folder: pathlib.Path) -> pathlib.Path:
    """Debian's lists with the long descriptions in English, by `apt-get update` into a folder of its own."""
    lists = folder / "lists"
    if not any(lists.glob("*_Translation-en")):
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        settings = {
            "Acquire::Languages": "en",
            "Acquire::GzipIndexes": "false",
            "Dir::State::lists": str(lists.resolve()),
        }
        options = [f"-o{name}={value}" for name, value in settings.items()]
        subprocess.run(["apt-get", *options, "update"], check=True, stdout=subprocess.DEVNULL)
        if not any(lists.glob("*_Translation-en")):  # without a network, apt-get only warns
            raise FileNotFoundError("apt-get brought no descriptions: it needs a mirror of Debian and a network.")
    return lists


def stanzas(path: pathlib.Path) -> Iterator[dict[str, str]]:
    """The paragraphs of a Debian control file: fields, whose further lines begin with a space."""
    fields: dict[str, str] = {}
    name = ""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                if fields:
                    yield fields
                fields = {}
            elif line[0] in " \t":
                fields[name] += line
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip() + "\n"
    if fields:
        yield fields


def read_packages(lists: pathlib.Path) -> list[Package]:
    """All packages of the main archive that have a long description. Prints which archive."""
    translation = max(lists.glob("*_main_i18n_Translation-en"), key=lambda path: path.stat().st_size)  # not its updates
    (index,) = lists.glob(translation.name.replace("i18n_Translation-en", "binary-*_Packages"))
    (release,) = lists.glob(translation.name.replace("main_i18n_Translation-en", "InRelease"))
    fields = dict(line.split(": ", 1) for line in release.read_text().splitlines() if ": " in line and line[0] != " ")
    digest = blake3.blake3(translation.read_bytes()).hexdigest()
    print(f"Debian {fields['Version']} ({fields['Codename']}), {fields['Date']}; {translation.name}, BLAKE3 {digest}")
    sources = {p["Package"].strip(): p.get("Source", p["Package"]).split()[0] for p in stanzas(index)}
    packages = []
    for paragraph in stanzas(translation):
        name = paragraph["Package"].strip()
        synopsis, _, text = paragraph["Description-en"].partition("\n")
        text = " ".join(line.strip() for line in text.splitlines() if line.strip() != ".")
        synopsis, text = (re.sub(r"\s+", " ", value).strip() for value in (synopsis, text))
        if text and synopsis:
            packages.append(Package(name, sources.get(name, name), synopsis, text))
    return packages


@dataclasses.dataclass(frozen=True)
class Split:
    """`test` and `validation` have the long descriptions of a twentieth of the sources each, in an order of chance.
    Neither their sources nor their texts and synopses are in `train`."""

    train: list[Package]
    validation: list[Package]
    test: list[Package]


def split(packages: Iterable[Package]) -> Split:
    """By source, and by identical synopsis or text."""
    parts: tuple[list[Package], ...] = ([], [], [])  # test, validation, train
    for package in packages:
        parts[min(_hash(package.family) % 100 // 5, 2)].append(package)
    test, validation, train = parts
    seen = {value for package in test + validation for value in (package.synopsis, package.text)}
    return Split(
        [package for package in train if package.synopsis not in seen and package.text not in seen],
        _long(validation),
        _long(test),
    )


def _long(packages: list[Package]) -> list[Package]:
    long = [package for package in packages if len(package.text.split()) >= MIN_WORDS]
    return sorted(long, key=lambda package: _hash(package.name))


def one_of_each_source(packages: Iterable[Package]) -> list[Package]:
    """The first of each source. Some sources have hundreds of packages, whose phrases stand in others, too."""
    first: dict[str, Package] = {}
    for package in packages:
        first.setdefault(package.family, package)
    return list(first.values())


def make_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE with BART's special tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size - 1,
        special_tokens=SPECIAL_TOKENS[:4],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(SPECIAL_TOKENS[4], lstrip=True)])  # the last, as in BART
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return Tokenizer(backend, mask_token="<mask>", prefix=PREFIX, model_vocab_size=CONFIG.vocab_size)


def denoising_examples(packages: Sequence[Package], tokenizer: Tokenizer) -> list[dict[str, np.ndarray]]:
    """Each description once: source and target are the same, until noise is made as it is read."""
    texts = sorted({package.text for package in packages}, key=_hash)
    rows = tokenizer.tokenize(texts, max_length=LENGTH - ROOM)
    ids = [np.array(row.input_ids, np.int32) for row in rows]
    return [dict(input_ids=row, labels=row, noised=np.array(1, np.int32)) for row in ids]


def summary_examples(packages: Sequence[Package], tokenizer: Tokenizer) -> list[dict[str, np.ndarray]]:
    """Long descriptions and their synopses. In front of a synopsis stands a space: its words are those of the text."""
    pairs = sorted(
        {(p.text, p.synopsis) for p in packages if len(p.text.split()) >= MIN_WORDS}, key=lambda p: _hash(p[0])
    )
    examples = seq2seq_examples(
        [dict(text=text, summary=" " + synopsis) for text, synopsis in pairs],
        tokenizer,
        max_source_length=LENGTH - ROOM,
        max_target_length=SUMMARY_LENGTH,
    )
    return [example | dict(noised=np.array(0, np.int32)) for example in examples]


def noise(
    example: dict[str, np.ndarray], generator: np.random.Generator, *, denoiser: Denoiser
) -> dict[str, np.ndarray]:
    source = example["input_ids"]
    if example["noised"]:
        source = denoiser.noise(source, generator)
    return dict(input_ids=source, labels=example["labels"])


class Report:
    """Prints every hundredth step."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.losses: collections.deque[float] = collections.deque(maxlen=100)

    def __call__(self, record: Mapping[str, Any]) -> None:
        passed = time.perf_counter() - self.start
        if "loss" not in record:
            print(f"{record}  {passed:.0f} s", flush=True)
            return
        self.losses.append(record["loss"])
        if record["step"] % 100 == 0:
            print(f"step {record['step']:5d}  loss {np.mean(self.losses):.4f}  {passed:.0f} s", flush=True)


def trained(
    model: Any,
    examples: Sequence[dict[str, np.ndarray]],
    folder: pathlib.Path,
    recipe: Recipe,
    denoiser: Denoiser,
    loss: Any = None,
) -> Any:
    """The model after training, which goes on where it was stopped in `folder`."""
    if loss is None:
        loss = functools.partial(
            seq2seq_loss, token_loss=functools.partial(fairseq_label_smoothing, epsilon=recipe.label_smoothing)
        )
    step, state = make_train_step(model, loss, recipe.optimizer(), key=jax.random.key(0))
    data = batches(
        examples,
        batch_tokens=recipe.batch_tokens,
        pad_token_id=CONFIG.pad_token_id,
        seed=0,
        transform=functools.partial(noise, denoiser=denoiser),
        room=ROOM,
    )
    finished = train(step, state, data, folder, total_steps=recipe.total_steps, save_every=250, on_record=Report())
    return step.model(finished.state)


def masked_words(packages: Sequence[Package]) -> list[tuple[str, str]]:
    """Of the beginning of each text one word, and the beginning with `<mask>` in its place."""
    masked = []
    for package in packages:
        text = package.text[:FILLED_LENGTH].rpartition(" ")[0]
        words = list(re.finditer(WORD, text))
        if words:
            word = words[_hash(package.name + " masked") % len(words)]
            masked.append((word.group(), f"{text[: word.start()]}<mask>{text[word.end() :]}"))
    return masked


def frequent_words(packages: Sequence[Package]) -> list[str]:
    """The five most frequent words of the texts."""
    counts = collections.Counter(word for package in packages for word in re.findall(WORD, package.text))
    return [word for word, _ in counts.most_common(5)]


@dataclasses.dataclass(frozen=True)
class Figures:
    """How good a model is on held-out packages. ROUGE are F-measures.

    Args:
        rouge1: Of the summaries.
        rougeL: Likewise.
        lead_rouge1: Of the first twelve words of the texts.
        lead_rougeL: Likewise.
        filled: The share of masked words that are among the first five tokens of the model.
        frequent: The share that are among the five most frequent words of the texts in training.
    """

    rouge1: float
    rougeL: float
    lead_rouge1: float
    lead_rougeL: float
    filled: float
    frequent: float


def measure(model: Any, tokenizer: Tokenizer, packages: Sequence[Package], frequent: Sequence[str]) -> Figures:
    """The figures on these packages, whose texts are longer than `MIN_WORDS`."""
    texts, references = [p.text for p in packages], [p.synopsis for p in packages]
    written = [result.summary_text for result in Summarizer(model, tokenizer)(texts, truncation=True)]
    ours, lead = rouge(written, references), rouge([" ".join(text.split()[:12]) for text in texts], references)
    words = masked_words(packages)
    filled = MaskFiller(model, tokenizer)([text for _, text in words], top_k=5)
    right = [
        word in [element.token_str.strip() for element in five] for (word, _), five in zip(words, filled, strict=True)
    ]
    return Figures(
        rouge1=ours.rouge1.fmeasure.mean,
        rougeL=ours.rougeL.fmeasure.mean,
        lead_rouge1=lead.rouge1.fmeasure.mean,
        lead_rougeL=lead.rougeL.fmeasure.mean,
        filled=float(np.mean(right)),
        frequent=float(np.mean([word in frequent for word, _ in words])),
    )


def seconds_to_summarize(summarizers: Sequence[Summarizer], texts: Sequence[str]) -> list[float]:
    """The median of five runs of each, in turn, after one that compiles."""
    seconds: list[list[float]] = [[] for _ in summarizers]
    for _ in range(6):
        for summarizer, of in zip(summarizers, seconds, strict=True):
            start = time.perf_counter()
            summarizer(texts, truncation=True)
            of.append(time.perf_counter() - start)
    return [float(np.median(of[1:])) for of in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).parents[1]
    parser.add_argument("--output", type=pathlib.Path, default=here / "src/bart_eqx/demo_text")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("demo-text"), help="checkpoints and metrics")
    arguments = parser.parse_args()
    work: pathlib.Path = arguments.work

    packages = split(read_packages(download(work)))
    print(f"{len(packages.train):,} packages to train with, {len(packages.test):,} to test")
    tokenizer = make_tokenizer(text for package in packages.train for text in (package.text, package.synopsis))
    (full_stop,) = tokenizer.tokenize(["."])[0].input_ids[1:-1]
    noise_config = DenoisingConfig(
        permute_sentences=0.0,
        vocab_size=CONFIG.vocab_size,
        mask_token_id=CONFIG.vocab_size - 1,
        full_stop_token_id=full_stop,
    )
    denoiser = Denoiser(noise_config, word_starts=tokenizer.word_starts())
    whole, summaries = denoising_examples(packages.train, tokenizer), summary_examples(packages.train, tokenizer)
    print(f"{len(whole):,} texts of {sum(len(t['labels']) for t in whole):,} tokens, {len(summaries):,} summaries")

    model = bart_eqx.BartForConditionalGeneration(CONFIG, key=jax.random.key(0))
    print(f"{sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array))):,} parameters")
    model = trained(model, whole, work / "pretrained", PRETRAIN, denoiser)
    mixed = whole[:DENOISED] + summaries
    model = trained(model, mixed, work / "fine-tuned", FINETUNE, denoiser)
    layers = distil_whisper_layers(CONFIG.decoder_layers, CONFIG.decoder_layers // 2)
    loss = Distillation(model, decoder_layers=layers)
    student = trained(shrink(model, decoder_layers=layers), mixed, work / "distilled", DISTIL, denoiser, loss)

    model, student = to_ship(model), to_ship(student)
    bart_eqx.save_pretrained(model, arguments.output)
    tokenizer.save_pretrained(arguments.output)

    frequent = frequent_words(packages.train)
    print("The five most frequent words:", *frequent)
    for name, sample in (("packages", packages.test), ("sources", one_of_each_source(packages.test))):
        print(SAMPLE, name, measure(model, tokenizer, sample[:SAMPLE], frequent))
        print(SAMPLE, name, "distilled", measure(student, tokenizer, sample[:SAMPLE], frequent))
    texts = [package.text for package in packages.test[:SAMPLE]]
    ours, distilled = seconds_to_summarize([Summarizer(m, tokenizer) for m in (model, student)], texts)
    print(f"{SAMPLE} summaries: {ours:.1f} s, distilled {distilled:.1f} s, {ours / distilled:.2f} times as fast")
    for package in one_of_each_source(packages.test)[:10]:
        written = Summarizer(model, tokenizer)(package.text, truncation=True)
        print(json.dumps(dict(package=package.name, synopsis=package.synopsis, summary=written.summary_text)))


def to_ship(model: Any) -> Any:
    """In bfloat16, with beams."""
    settings = dataclasses.replace(model.generation_config, **GENERATION)
    model = eqx.tree_at(lambda model: model.generation_config, model, settings)
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, model)


if __name__ == "__main__":
    main()
