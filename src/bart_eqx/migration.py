"""Arguments and attributes that transformers' models have and ours do not: errors that say what to write instead.

`docs/migration.md` lists every call with ours. `generation_options.py` does the same for options of `generate`.
"""

import dataclasses
from typing import TYPE_CHECKING, Any


_CONFIG = "give `config=dataclasses.replace(config, ...)`, with the `config` of the loaded model"
_ENVIRONMENT = "the Hub's client reads HF_TOKEN, HF_HOME and HF_HUB_OFFLINE from the environment"
_FIELDS = "an output is read by its fields, such as `out.logits`"
_HEAD_MASK = "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`"
_PARAMS = (
    "the model is the PyTree of its parameters; `bart_eqx.from_flax(params, config, cls)` makes it from Flax's, and "
    "`bart_eqx.to_flax(model)` is the inverse"
)
_PER_CALL = "it is an argument of each call of the model"
_PUSH = "save with `bart_eqx.save_pretrained(model, folder)`, and upload with `huggingface_hub.upload_folder`"
_TO_DTYPE = (
    "load with `dtype=...`, or cast with "
    "`jax.tree.map(lambda x: x.astype(dtype) if equinox.is_inexact_array(x) else x, model)`"
)
_TRAINING_MODE = "`equinox.nn.inference_mode(model, value=False)` turns dropout on, and each call then needs a `key`"

ARGUMENTS = {
    "_do_init": "`equinox.filter_eval_shape(cls, config, key=key)` makes a model without arrays",
    "batch_size": "the batch is that of `encoder_outputs`: `init_cache(encoder_outputs, mask, max_length=...)`",
    "cache_dir": _ENVIRONMENT,
    "cross_attn_head_mask": _HEAD_MASK,
    "decoder_head_mask": _HEAD_MASK,
    "deterministic": _TRAINING_MODE,
    "dropout_rng": f"it is `key`; {_TRAINING_MODE}",
    "encoder_outputs": "`model.decode` and `bart_eqx.generate` take it",
    "force_download": _ENVIRONMENT,
    "from_pt": "the files say what they are; `prefer` chooses where there are several formats",
    "head_mask": _HEAD_MASK,
    "id2label": _CONFIG,
    "inputs_embeds": "`model.model.encoder(inputs_embeds, attention_mask)` encodes embeddings; give the result as "
    "`encoder_outputs` to `model.decode` or `bart_eqx.generate`",
    "label2id": _CONFIG,
    "labels": "`bart_eqx.training.cross_entropy` computes the loss",
    "local_files_only": _ENVIRONMENT,
    "max_shard_size": "the weights are one file",
    "num_labels": _CONFIG,
    "output_attentions": _PER_CALL,
    "output_hidden_states": _PER_CALL,
    "params": _PARAMS,
    "past_key_values": "`model.init_cache` makes a cache; give it to `decode` as `cache`, and to the next call the one "
    "that `decode` returns",
    "push_to_hub": _PUSH,
    "return_dict": "an output always has fields, such as `out.logits`",
    "safe_serialization": '`to="safetensors"`, the default, and `to="flax"` are the formats',
    "token": _ENVIRONMENT,
    "token_type_ids": "BART has none; leave them out of what the tokenizer returns",
    "torch_dtype": "it is `dtype`",
    "train": _TRAINING_MODE,
    "trust_remote_code": "a checkpoint has no code",
    "use_auth_token": _ENVIRONMENT,
    "use_cache": "`decode` uses the cache that it is given",
}
"""Arguments of transformers' models, and of loading and saving them."""


class Elsewhere:
    """An attribute of transformers' classes: reading it raises an `AttributeError` that says what to write instead.

    So `hasattr` is False, for the class and its instances. (A `__getattr__` would slow other attributes down.)
    """

    def __init__(self, way: str):
        self.way = way

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"`{owner.__name__}` has no `{self.name}`, unlike in transformers. Here, {self.way}.")


class TransformersModel:
    """Base class: the attributes of transformers' models. A type checker does not see them."""

    if not TYPE_CHECKING:
        enable_gradient_checkpointing = Elsewhere("call `bart_eqx.training.rematerialise(model)`")
        eval = Elsewhere("a model is in inference mode until `equinox.nn.inference_mode(model, value=False)`")
        from_pretrained = Elsewhere("call `bart_eqx.from_pretrained(source, cls)`, for files of Flax and of PyTorch")
        generate = Elsewhere(
            "call `bart_eqx.generate(model, input_ids, ...)`, with a `BartForConditionalGeneration` or a "
            '`BartForCausalLM`. Its tokens are those of PyTorch, and with `semantics="flax"` those of Flax'
        )
        init_weights = Elsewhere("`cls(config, key=key)` makes a model with new weights")
        module = Elsewhere("the model is the module, an `equinox.Module`")
        params = Elsewhere(_PARAMS)
        push_to_hub = Elsewhere(_PUSH)
        resize_token_embeddings = Elsewhere("call `bart_eqx.resize_token_embeddings(model, vocab_size, key=key)`")
        save_pretrained = Elsewhere("call `bart_eqx.save_pretrained(model, folder)`")
        to_bf16 = Elsewhere(_TO_DTYPE)
        to_fp16 = Elsewhere(_TO_DTYPE)
        to_fp32 = Elsewhere(_TO_DTYPE)
        train = Elsewhere(_TRAINING_MODE)


class TransformersOutput:
    """Base class: the ways to read transformers' outputs as tuples and dicts. A type checker does not see them."""

    if not TYPE_CHECKING:
        items = Elsewhere(_FIELDS)
        keys = Elsewhere(_FIELDS)
        loss = Elsewhere("`bart_eqx.training.cross_entropy` computes it")
        past_key_values = Elsewhere("`decode` returns the cache after its output")
        to_tuple = Elsewhere(_FIELDS)
        values = Elsewhere(_FIELDS)

        def __getitem__(self, key: object) -> Any:
            names = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
            raise TypeError(
                f"`{type(self).__name__}` is not a tuple or a dict, unlike in transformers. Here, it has the fields "
                f"{', '.join(f'`.{name}`' for name in names)}."
            )
