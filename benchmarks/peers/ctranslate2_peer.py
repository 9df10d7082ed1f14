"""CTranslate2, in float32 and int8."""

import os
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import transformers
from ctranslate2.converters.transformers import BartLoader


class Peer:
    def __init__(self, folder: Path, variant: str):
        converted = folder / f"ctranslate2-{variant}"
        self.names = ["<s>", "<pad>", "</s>", "<unk>", *(f"t{index}" for index in range(4, 50265))]
        if not converted.exists():
            model: Any = transformers.BartForConditionalGeneration.from_pretrained(folder / "pytorch")
            model.config.normalize_before = False  # fields that transformers 5 no longer writes
            model.config.normalize_embedding = True
            loader = BartLoader()
            spec = loader.get_model_spec(model)
            loader.set_vocabulary(spec, self.names)
            for name, token in (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"), ("decoder_start", "</s>")):
                setattr(spec.config, f"{name}_token", token)
            spec.validate()
            spec.optimize(quantization=None if variant == "float32" else variant)
            converted.mkdir()
            spec.save(str(converted))
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        threads = len(os.sched_getaffinity(0))
        self.model = ctranslate2.Translator(str(converted), device=device, compute_type=variant, intra_threads=threads)
        self.versions = {"ctranslate2": ctranslate2.__version__, "device": device}

    def generate(self, ids: np.ndarray, beams: int, new: int, sample: bool, **_: Any):
        sources = [[self.names[index] for index in row if index != 1] for row in ids]
        options = dict(beam_size=beams, min_decoding_length=new, max_decoding_length=new, max_input_length=0)
        draw = dict(sampling_topk=50) if sample else {}
        number = {name: index for index, name in enumerate(self.names)}

        def run() -> np.ndarray:
            found = self.model.translate_batch(sources, **options, **draw)
            return np.array([[2, *(number[name] for name in row.hypotheses[0])] for row in found])

        return run

    def write(self, tokenizer: Path, beams: int, new: int):
        """Texts from texts, in batches of 4,096 tokens, which the library sorts by length."""
        tokens = transformers.AutoTokenizer.from_pretrained(tokenizer, tokenizer_type="bart")
        options = dict(beam_size=beams, min_decoding_length=new, max_decoding_length=new, max_input_length=0)
        number = {name: index for index, name in enumerate(self.names)}

        def run(texts: list[str]) -> list[str]:
            sources = [[self.names[index] for index in ids] for ids in tokens(texts).input_ids]
            found = self.model.translate_batch(sources, max_batch_size=4096, batch_type="tokens", **options)
            rows = [[number[name] for name in row.hypotheses[0]] for row in found]
            return tokens.batch_decode(rows, skip_special_tokens=True)

        return run
