"""Settings of transformers' `generate` that are not fields of `GenerationConfig`, and what to write instead."""

from collections.abc import Mapping
from typing import Any


# Fields of transformers that control how it runs, not which tokens it generates. A checkpoint may have them; a call of
# `generate` may not.
HOW_IT_RUNS = frozenset(
    "_commit_hash _from_model_config assistant_confidence_threshold assistant_ensemble_weight assistant_lookbehind "
    "cache_config cache_implementation compile_config continuous_batching_config disable_compile is_assistant "
    "low_memory max_cache_len num_assistant_tokens num_assistant_tokens_schedule prefill_chunk_size "
    "return_dict_in_generate return_legacy_cache speculation_type target_lookbehind transformers_version "
    "use_cache".split()
)

# Fields that would change the tokens, and are not implemented. Each is refused wherever it is set, for this reason.
REFUSED = {
    "assistant_early_exit": "drafts come from `prompt_lookup_num_tokens`; there is no early exit from the decoder",
    "constraints": "Python objects cannot enter a compiled loop; give the words themselves as `force_words_ids`",
    "dola_layers": "DoLa decoding is not implemented; transformers 5 removed it too",
    "forced_decoder_ids": "transformers 5 removed it; give the tokens as `decoder_input_ids`",
    "guidance_scale": "classifier-free guidance needs a second, unconditional model call, which BART has no use for; "
    "write a `logits_processor` if you have one",
    "max_time": "a compiled loop has no clock; take tokens from `bart_eqx.stream` and stop when it is late",
    "penalty_alpha": "contrastive search is not implemented; transformers 5 removed it too",
    "stop_strings": "they need the tokenizer at every step; take tokens from `bart_eqx.stream` and stop at the string",
    "token_healing": "it needs the tokenizer; heal the prompt before it is tokenised",
    "use_mtp": "BART has no multi-token prediction heads",
    "watermarking_config": "watermarks are not implemented; one can be written as a `logits_processor`",
}
_OFF = {"guidance_scale": 1, "penalty_alpha": 0}

# Settings that a search reads only if another one is on.
SAMPLING = "temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff".split()
BEAMS = "early_stopping length_penalty".split()

# Arguments of transformers' `generate`, PyTorch's and Flax's, that have another name here or none: what to do instead.
OTHER_ARGUMENTS = {
    "assistant_model": "draft with `prompt_lookup_num_tokens`, which needs no second model",
    "assistant_tokenizer": "draft with `prompt_lookup_num_tokens`, which needs no second model",
    "custom_generate": "write the loop yourself over `model.init_cache` and `model.decode`",
    "decoder_inputs_embeds": "give tokens as `decoder_input_ids`",
    "head_mask": "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`",
    "decoder_head_mask": "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`",
    "cross_attn_head_mask": "heads cannot be masked; replace the attention by one that does, as in `docs/design.md`",
    "inputs": "give the source as `input_ids`",
    "inputs_embeds": "encode the embeddings with `model.model.encoder`, and give the result as `encoder_outputs`",
    "logits_warper": "give your own processors as `logits_processor`",
    "negative_prompt_attention_mask": "there is no `guidance_scale`; write a `logits_processor`",
    "negative_prompt_ids": "there is no `guidance_scale`; write a `logits_processor`",
    "params": "the weights are in the model, which is the first argument",
    "past_key_values": "give the tokens so far as `decoder_input_ids`, or continue a cache with `model.decode`",
    "prefix_allowed_tokens_fn": "give the allowed sequences themselves as `prefix_allowed_tokens`",
    "prng_key": "give it as `key`",
    "rng": "give a JAX key as `key`",
    "seed": "give `key=jax.random.key(seed)`",
    "generator": "give a JAX key as `key`",
    "stopping_criteria": "set `max_length`, `max_new_tokens` or `eos_token_id`; or take tokens from `bart_eqx.stream`, "
    "and stop when you like",
    "streamer": "iterate over `bart_eqx.stream(...)`, which takes the same arguments",
    "synced_gpus": "the loop is one program on all devices; leave it out",
    "token_type_ids": "BART has none; leave them out of what the tokenizer returns",
    "tokenizer": "no option needs one; decode the result with it",
    "trace": "the loop is always compiled; to run it step by step, use `jax.disable_jit()`",
    "use_model_defaults": "give `generation_config`: without it the settings are the model's",
}


def is_off(name: str, value: Any) -> bool:
    """Whether this value of a setting in `REFUSED` asks for nothing."""
    if isinstance(value, (str, list, tuple, dict)):
        return not value
    return value is None or value is False or (isinstance(value, (int, float)) and value == _OFF.get(name))


def unread(settings: Mapping[str, Any]) -> set[str]:
    """The names of the settings that a search with these settings does not read."""
    names = set() if settings["do_sample"] else {*SAMPLING}
    names |= {*BEAMS} if settings["num_beams"] == 1 else set()
    names |= set() if settings["prompt_lookup_num_tokens"] else {"max_matching_ngram_size"}
    return names | (set() if settings["max_new_tokens"] is None else {"max_length"})
