"""Make `tests/references/tasks-4.json` and `tasks-5.json` anew: what transformers' pipelines answer, with PyTorch.

    SOME_ENVIRONMENT/bin/python scripts/make_task_references.py .venv/bin/python

Runs in an environment with torch, once with transformers 4.57, which has all pipelines, and once with 5. The argument
is an interpreter that has bart_eqx, which writes the models: random, tiny, with BART's tokenizer.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]
import task_cases as cases  # noqa: E402


NAMES = ("BartForConditionalGeneration", "BartForSequenceClassification", "BartForQuestionAnswering")
NLI = ("contradiction", "neutral", "entailment")
MASK = dict(__type="AddedToken", content="<mask>", lstrip=True, rstrip=False, normalized=False, single_word=False)


def write_models(folder: Path) -> None:
    """In the other interpreter."""
    import bart_eqx
    from text_support import tiny, tokenizer

    for name in NAMES:
        bart_eqx.save_pretrained(tiny(name, id2label=NLI), folder / name)
        tokenizer().save_pretrained(folder / name)
        tokenizer().backend.save(str(folder / name / "tokenizer.json"))
        names = dict(bos="<s>", eos="</s>", sep="</s>", cls="<s>", unk="<unk>", pad="<pad>")
        special = {f"{key}_token": token for key, token in names.items()} | dict(mask_token=MASK)
        config = dict(tokenizer_class="BartTokenizer", model_max_length=64) | special
        (folder / name / "tokenizer_config.json").write_text(json.dumps(config))


def answers(folder: Path) -> dict[str, Any]:
    import torch
    import transformers

    def pipeline(task: str, name: str, **options: Any) -> Any:
        return transformers.pipeline(task, model=str(folder / name), device="cpu", dtype=torch.float32, **options)

    found: dict[str, Any] = dict(transformers=transformers.__version__, torch=torch.__version__)
    fill = pipeline("fill-mask", NAMES[0])
    found["fill-mask"] = [fill(text, top_k=3) for text, _ in cases.masked()]
    found["fill-mask targets"] = [fill(text, targets=["Ġwar", "Ġschool", "x"]) for text, _ in cases.masked()]
    classify = pipeline("text-classification", NAMES[1], top_k=None)
    found["text-classification"] = [classify(text) for text in cases.TEXTS]
    found["pairs"] = [classify(dict(text=text, text_pair=pair)) for text, pair in cases.PAIRS]
    zero_shot = pipeline("zero-shot-classification", NAMES[1])
    for multi_label in (False, True):
        key = f"zero-shot-classification {multi_label}"
        found[key] = [zero_shot(text, cases.LABELS, multi_label=multi_label) for text in cases.TEXTS]
    if transformers.__version__.startswith("4."):
        answer = pipeline("question-answering", NAMES[2])
        asked = [*zip(cases.QUESTIONS, cases.TEXTS, strict=True), ("Where?", cases.LONG_CONTEXT)]
        for key, options in cases.ANSWERS.items():
            found[f"question-answering {key}"] = [answer(question=q, context=c, **options) for q, c in asked]
        for index, options in enumerate(cases.SUMMARIES):
            summarize = pipeline("summarization", NAMES[0])
            for prefix in ("", cases.PREFIX):
                summarize.prefix = prefix
                key = f"summarization {index} {prefix!r}"
                # The pipeline's own max_new_tokens=256 would count before `max_length`.
                outputs = [summarize(text, max_new_tokens=None, **options) for text in cases.TEXTS]
                found[key] = [output[0]["summary_text"] for output in outputs]
    return found


def main() -> None:
    if sys.argv[1] == "--models":
        return write_models(Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.argv[1], __file__, "--models", folder], check=True)
        found = answers(Path(folder))
    path = ROOT / "tests" / "references" / f"tasks-{found['transformers'].partition('.')[0]}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


main()
