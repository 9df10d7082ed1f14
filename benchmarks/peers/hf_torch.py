"""Hugging Face's PyTorch with sdpa: transformers 5 and torch.

Eager in float32, also with TF32 products ("tf32") or in "bfloat16", or its forward pass through torch.compile.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


class Peer:
    def __init__(self, folder: Path, variant: str):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if variant == "tf32":
            torch.set_float32_matmul_precision("high")
        dtype = torch.bfloat16 if variant == "bfloat16" else torch.float32
        load = transformers.BartForConditionalGeneration.from_pretrained
        model = load(folder / "pytorch", dtype=dtype, attn_implementation="sdpa").eval().to(self.device)
        self.model: Any = model
        if variant == "compile":
            self.model.forward = torch.compile(model.forward)
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__, "device": self.device}

    def _ids(self, ids: np.ndarray) -> torch.Tensor:
        return torch.tensor(ids, dtype=torch.bool if ids.dtype == bool else torch.int64, device=self.device)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self) -> int | None:
        """The peak of allocated device memory since the last call."""
        if self.device != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak

    def encode(self, ids: np.ndarray, **_: Any):
        tokens, encoder = self._ids(ids), self.model.get_encoder()

        @torch.inference_mode()
        def run() -> None:
            encoder(tokens)
            self._wait()

        return run

    def forward(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        tokens, decoder_tokens = self._ids(ids), self._ids(targets)

        @torch.inference_mode()
        def run() -> None:
            self.model(input_ids=tokens, decoder_input_ids=decoder_tokens)
            self._wait()

        return run

    def steps(self, ids: np.ndarray, new: int, **_: Any):
        with torch.inference_mode():
            encoded = self.model.get_encoder()(self._ids(ids))

        @torch.inference_mode()
        def run() -> np.ndarray:
            cache, tokens, written = None, torch.tensor([[2]], device=self.device), []
            for _ in range(new):
                out = self.model(
                    encoder_outputs=encoded, decoder_input_ids=tokens, past_key_values=cache, use_cache=True
                )
                cache, tokens = out.past_key_values, out.logits.argmax(-1)
                written.append(tokens[0].cpu().numpy())
            return np.stack(written, axis=1)

        return run

    def generate(self, ids: np.ndarray, beams: int, new: int, sample: bool, **_: Any):
        tokens, mask = self._ids(ids), self._ids(ids != 1)  # 1 is padding
        stop = dict(max_new_tokens=new, min_new_tokens=new, forced_bos_token_id=None, forced_eos_token_id=None)
        draw = dict(do_sample=True, top_k=50) if sample else dict(do_sample=False)
        return lambda: self.model.generate(tokens, attention_mask=mask, num_beams=beams, **stop, **draw).cpu().numpy()

    def train(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        tokens, decoder_tokens = self._ids(ids), self._ids(targets)
        optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-4)

        def run() -> None:
            optimiser.zero_grad()
            logits = self.model(input_ids=tokens, decoder_input_ids=decoder_tokens).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), decoder_tokens.flatten()).backward()
            optimiser.step()
            self._wait()

        return run

    def fine_tune(self, ids: np.ndarray, targets: np.ndarray, compute: str, **_: Any):
        self.model.train()
        tokens, labels = self._ids(ids), self._ids(targets)
        parameters = [*self.model.parameters()]
        groups: Any = [
            {"params": [x for x in parameters if x.ndim > 1], "weight_decay": 0.01},
            {"params": [x for x in parameters if x.ndim == 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=1e-5)
        mixed = torch.autocast(self.device, torch.bfloat16, enabled=compute == "bfloat16")

        def run() -> None:
            with mixed:
                loss = self.model(input_ids=tokens, labels=labels).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            self._wait()

        return run
