"""`BartConfig`: what it reads, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bart_eqx import BartConfig, GenerationConfig
from bart_eqx.generation_config import TOKENS
from support import CONFIGS


# `transformers.BartConfig().to_dict()` of version 4.57.6, abridged to the fields that are not BART's own, and the early
# configuration of facebook/bart-large-cnn.
FROM_4_57 = dict(
    model_type="bart",
    num_hidden_layers=12,
    use_cache=True,
    return_dict=True,
    torchscript=False,
    dtype=None,
    pruned_heads={},
    chunk_size_feed_forward=0,
    is_decoder=False,
    cross_attention_hidden_size=None,
    tie_encoder_decoder=False,
    architectures=None,
    id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    label2id={"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    max_length=20,
    num_beams=1,
    transformers_version="4.57.6",
)
EARLY = dict(
    _num_labels=3,
    add_bias_logits=False,
    add_final_layer_norm=False,
    classif_dropout=0.0,
    early_stopping=True,
    extra_pos_embeddings=2,
    force_bos_token_to_be_generated=True,
    length_penalty=2.0,
    max_length=142,
    min_length=56,
    model_type="bart",
    no_repeat_ngram_size=3,
    normalize_before=False,
    normalize_embedding=True,
    num_beams=4,
    output_past=True,
    prefix=" ",
    static_position_embeddings=False,
    task_specific_params={"summarization": {"num_beams": 4}},
    vocab_size=50264,
)


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_to_dict_and_back(fields: dict) -> None:
    config = BartConfig(**fields)
    assert BartConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(BartConfig(**fields))


def test_defaults_are_those_of_transformers() -> None:
    assert BartConfig.from_dict(FROM_4_57) == BartConfig()


def test_early_checkpoints() -> None:
    config = BartConfig.from_dict(EARLY)
    assert config.vocab_size == 50264 and config.forced_bos_token_id == 0
    generation = GenerationConfig.from_legacy_dict(EARLY, config)
    assert (generation.num_beams, generation.max_length, generation.min_length) == (4, 142, 56)
    assert (generation.length_penalty, generation.no_repeat_ngram_size) == (2.0, 3)
    assert generation.forced_bos_token_id == 0


def test_labels() -> None:
    config = BartConfig.from_dict(dict(id2label={"1": "neutral", "0": "contradiction", "2": "entailment"}))
    assert config.id2label[2] == "entailment" and config.num_labels == 3
    assert BartConfig(num_labels=2).id2label == ("LABEL_0", "LABEL_1")
    for count in (1, 2, 5):
        changed = dataclasses.replace(BartConfig(), num_labels=count)
        assert changed == BartConfig(num_labels=count) and len(changed.id2label) == count
    with pytest.raises(ValueError, match=r"must name num_labels=5 classes. Got 3. Change both, or give id2label=\(\)"):
        dataclasses.replace(config, num_labels=5)
    assert dataclasses.replace(config, num_labels=2, id2label=()).id2label == ("LABEL_0", "LABEL_1")
    with pytest.raises(ValueError, match="classes 0 to 1"):
        BartConfig.from_dict(dict(id2label={"0": "no", "2": "yes"}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(d_model=10, encoder_attention_heads=3), "`d_model` must be divisible by `encoder_attention_heads`"),
        (dict(activation_function="maxout"), "must be one of gelu, .* Got 'maxout'"),
        (dict(encoder_layers=0), "`encoder_layers` must be at least 1. Got 0"),
        (dict(decoder_ffn_dim=-4), "`decoder_ffn_dim` must be at least 1"),
        (dict(dropout=1.0), r"`dropout` must be in \[0, 1\)"),
        (dict(encoder_layerdrop=float("nan")), "`encoder_layerdrop` must be in"),
        (dict(pad_token_id=50265), r"`pad_token_id` must be in \[0, vocab_size=50265\)"),
        (dict(init_std=float("inf")), "`init_std`"),
        (dict(num_labels=2, id2label=("a", "b", "c")), "must name num_labels=2 classes"),
    ],
)
def test_faults(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BartConfig(**fields)


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)vocab_size.*dropout.*activation_function"):
        BartConfig(vocab_size=0, dropout=2.0, activation_function="none")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model_type="mbart"), "Got 'mbart'"),
        (dict(normalize_before=True), "`normalize_before` must be False. Got True"),
        (dict(quantization_config={"bits": 4}), "`quantization_config` must be None"),
        (dict(rope_theta=1e4), "not known to BART: rope_theta"),
        (dict(vocab_size="50265"), "`vocab_size` must be int. Got '50265'"),
        (dict(encoder_layers=True), "`encoder_layers` must be int. Got True"),
        (dict(scale_embedding=1), "`scale_embedding` must be bool. Got 1"),
        (dict(dropout="0.1"), "`dropout` must be float or int"),
    ],
)
def test_from_dict_refuses(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BartConfig.from_dict(fields)


def test_unknown_fields_may_be_ignored_by_name() -> None:
    assert BartConfig.from_dict(dict(rope_theta=1e4), ignore=["rope_theta"]) == BartConfig()


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BartConfig().d_model = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_generation_config() -> None:
    config = BartConfig(forced_bos_token_id=0)
    fields = dict(max_length=142, num_beams=4, temperature=None, use_cache=True, forced_bos_token_id=0)
    read = GenerationConfig.from_dict(fields, config)
    assert (read.max_length, read.num_beams, read.forced_bos_token_id, read.temperature) == (142, 4, 0, 1.0)
    assert GenerationConfig.from_dict(read.to_dict(), BartConfig()) == read
    with pytest.raises(ValueError, match="at least 2"):
        GenerationConfig(max_length=1)
    with pytest.raises(ValueError, match="at least 1"):
        GenerationConfig(max_new_tokens=0)


# The fields of `transformers.GenerationConfig` 5.23, and those of 4.57 that it dropped.
TRANSFORMERS = (
    "max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams "
    "use_mtp use_cache cache_implementation cache_config max_cache_len temperature top_k top_p min_p top_h typical_p "
    "epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size "
    "bad_words_ids renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias token_healing guidance_scale "
    "watermarking_config num_return_sequences output_attentions output_hidden_states output_scores output_logits "
    "return_dict_in_generate pad_token_id bos_token_id eos_token_id encoder_no_repeat_ngram_size "
    "decoder_start_token_id is_assistant num_assistant_tokens num_assistant_tokens_schedule "
    "assistant_confidence_threshold "
    "prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind "
    "assistant_ensemble_weight speculation_type compile_config disable_compile continuous_batching_config low_memory "
    "penalty_alpha dola_layers diversity_penalty num_beam_groups constraints force_words_ids prefill_chunk_size "
    "forced_decoder_ids return_legacy_cache"
).split()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_option_of_transformers_is_known(name: str) -> None:
    """It is a field; or it is refused by name, in a call at least; and it is in the table of the docs."""
    if name not in {field.name for field in dataclasses.fields(GenerationConfig)}:
        with pytest.raises(ValueError, match=f"`{name}"):
            GenerationConfig().override(**{name: 3})
    page = (Path(__file__).parents[1] / "docs" / "generation.md").read_text()
    table = page[page.index("## Every option") : page.index("## Where we differ")]
    assert f"`{name}`" in table


@pytest.mark.parametrize(
    ("name", "way"),
    dict(
        streamer="bart_eqx.stream",
        stopping_criteria="max_new_tokens.*bart_eqx.stream",
        prefix_allowed_tokens_fn="`prefix_allowed_tokens`",
        prng_key="`key`",
        params="first argument",
        trace="jax.disable_jit",
        assistant_model="`prompt_lookup_num_tokens`",
        negative_prompt_ids="`logits_processor`",
        negative_prompt_attention_mask="`logits_processor`",
        synced_gpus="leave it out",
        inputs="`input_ids`",
        inputs_embeds="`encoder_outputs`",
        decoder_inputs_embeds="`decoder_input_ids`",
        past_key_values="`decoder_input_ids`",
        use_model_defaults="`generation_config`",
        custom_generate="`model.decode`",
        token_type_ids="BART has none",
        logits_warper="`logits_processor`",
        head_mask="docs/design.md",
        seed=r"jax.random.key\(seed\)",
        tokenizer="decode the result",
    ).items(),
)
def test_arguments_of_transformers_that_have_another_name(name: str, way: str) -> None:
    """The error names the way that there is here; arrays are not compared, and `None` asks for nothing."""
    with pytest.raises(ValueError, match=f"`{name}` is an argument of transformers. Here, .*{way}"):
        GenerationConfig().override(**{name: np.ones((2, 3))})
    assert GenerationConfig().override(**{name: None}) == GenerationConfig()


def test_arrays_for_refused_options() -> None:
    with pytest.raises(ValueError, match="`stop_strings=.*not implemented"):
        GenerationConfig().override(stop_strings=np.array(["a", "b"]))


def test_lists_of_token_ids() -> None:
    """As JSON has them; a configuration is hashable all the same, and JSON again."""
    fields = dict(
        eos_token_id=[2, 5],
        bad_words_ids=[[5], [6, 7]],
        sequence_bias=[[[5, 6], 2.0]],
        force_words_ids=[[5], [[6], [7, 8]]],
        num_beams=2,
        exponential_decay_length_penalty=[3, 1.1],
    )
    read = GenerationConfig.from_dict(fields, BartConfig())
    assert hash(read) == hash(GenerationConfig.from_dict(json.loads(json.dumps(read.to_dict())), BartConfig()))
    assert read.eos_token_ids == (2, 5) and read.force_words_ids == ((5,), ((6,), (7, 8)))
    assert GenerationConfig(sequence_bias={(5, 6): 2.0}).sequence_bias == read.sequence_bias


def test_override() -> None:
    """Of two ways to say a length the one that is given counts, and what a checkpoint said is forgotten."""
    checkpoint = GenerationConfig(max_length=142, min_length=56)
    assert checkpoint.override(max_new_tokens=9, min_length=0).max_new_tokens == 9
    assert checkpoint.override(max_new_tokens=60, min_new_tokens=5).min_length == 0
    assert checkpoint.override(max_new_tokens=60).override(max_length=90).max_new_tokens is None
    assert checkpoint.override(guidance_scale=1, stop_strings=None) == checkpoint  # off, as it is here


def test_what_a_file_leaves_open_is_off() -> None:
    """As in transformers: a token that config.json forces is not forced where generation_config.json says nothing."""
    config = BartConfig(forced_bos_token_id=0, forced_eos_token_id=2, eos_token_id=7)
    read = GenerationConfig.from_dict(dict(num_beams=2), config)
    assert (read.forced_bos_token_id, read.forced_eos_token_id, read.eos_token_id) == (None, None, 7)
    legacy = GenerationConfig.from_legacy_dict(dict(num_beams=2), config)
    assert (legacy.forced_bos_token_id, legacy.forced_eos_token_id, legacy.eos_token_id) == (0, 2, 7)
    for settings in (GenerationConfig(forced_eos_token_id=None, top_k=None), GenerationConfig(forced_eos_token_id=5)):
        assert GenerationConfig.from_dict(settings.to_dict(), config) == settings


def test_earlier_names() -> None:
    fields = dict(force_bos_token_to_be_generated=True, output_attentions=True, d_model=16)
    assert GenerationConfig.from_legacy_dict(fields, BartConfig()).forced_bos_token_id == 0
    with pytest.raises(ValueError, match="`penalty_alpha=0.6` is not implemented"):
        GenerationConfig.from_legacy_dict(dict(penalty_alpha=0.6), BartConfig()).override()


# What real generation_config.json files hold and `generate` does not take: the file, the message, and options of a call
# with which it is taken.
UNUSABLE: list[tuple[dict, str, dict]] = [
    (dict(max_time=3.5), "`max_time=3.5` is not implemented: a compiled loop has no clock", dict(max_time=None)),
    (dict(guidance_scale=1.5), "`guidance_scale=1.5` is not implemented: classifier-free", dict(guidance_scale=None)),
    (dict(penalty_alpha=0.6), "`penalty_alpha=0.6` is not implemented", dict(penalty_alpha=None)),
    (dict(my_note="x"), "`my_note` is not a setting that is known here. Got 'x'", dict(my_note=None)),
    (dict(lang_to_id={"en": 5}), "`lang_to_id` is not a setting.*Got {'en': 5}", dict(lang_to_id=None)),
    (
        dict(min_length=9, max_length=4),
        "`min_length` must not be more than `max_length`. Got 9 and 4",
        dict(max_length=9),
    ),
    (dict(min_length=9, max_length=4), "`min_length` must not be more", dict(min_length=None)),
    (dict(min_length=9, max_length=4), "`min_length` must not be more", dict(max_new_tokens=12)),
    (dict(min_new_tokens=9, max_new_tokens=4), "`min_new_tokens` must not be more", dict(min_length=2)),
    (dict(num_beams=0), "`num_beams` must be at least 1. Got 0", dict(num_beams=2)),
    (dict(num_beams="4"), "`num_beams` must be int. Got '4'", dict(num_beams=4)),
    (dict(num_beams=2, early_stopping="sometimes"), "`early_stopping` must be", dict(early_stopping="never")),
    (dict(num_beams=2, early_stopping="sometimes"), "`early_stopping` must be", dict(num_beams=1)),
    (dict(num_return_sequences=9), "`num_return_sequences` must not be more than `num_beams`", dict(num_beams=9)),
    (dict(no_repeat_ngram_size=-1), "`no_repeat_ngram_size` must be at least 0", dict(no_repeat_ngram_size=3)),
    (dict(num_beams=4, num_beam_groups=2), "`num_beam_groups` and `diversity_penalty` go", dict(diversity_penalty=1.0)),
    (dict(do_sample=True, temperature=0.0), "`temperature` must be more than 0. Got 0.0", dict(temperature=0.5)),
    (dict(do_sample=True, temperature=0.0), "`temperature` must be more than 0. Got 0.0", dict(do_sample=False)),
    (
        dict(do_sample=True, top_p=1.5, top_k=-1),
        "`top_k` must be at.*`top_p` must be between",
        dict(top_p=0.9, top_k=0),
    ),
    (dict(bad_words_ids=[[]]), "`bad_words_ids` has no token", dict(bad_words_ids=None)),
    (dict(sequence_bias=[["a", 1]]), "`sequence_bias` must be pairs", dict(sequence_bias=None)),
    (dict(eos_token_id=[]), "`eos_token_id` must be a token, or several", dict(eos_token_id=2)),
    (dict(max_length=1), "`max_length` must be at least 2", dict(max_length=5)),
    (dict(renormalize_logits=1), "`renormalize_logits` must be bool. Got 1", dict(renormalize_logits=True)),
]


@pytest.mark.parametrize(("fields", "message", "options"), UNUSABLE)
def test_settings_that_cannot_be_used_are_kept(fields: dict, message: str, options: dict) -> None:
    """Reading a checkpoint does not refuse them: using them does, by name, unless the call says otherwise."""
    for read in (GenerationConfig.from_dict, GenerationConfig.from_legacy_dict):
        if read == GenerationConfig.from_legacy_dict and (fields.keys() & {"my_note", "lang_to_id", "eos_token_id"}):
            continue  # refused as fields of a BART; a list of ends is below
        config = read(fields, BartConfig())
        assert {name: config.to_dict()[name] for name in fields} == fields
        assert GenerationConfig.from_dict(config.to_dict(), BartConfig()) == config and hash(config) == hash(config)
        with pytest.raises(ValueError, match=message) as caught:
            config.override()
        assert "This came with the checkpoint: set `" in str(caught.value) and str(caught.value) == config.refusal
        with pytest.raises(ValueError, match=message):
            config.override(repetition_penalty=1.5)
        changed = config.override(**options)
        assert changed.refusal is None
        assert all(getattr(changed, name) == value for name, value in options.items() if value is not None)
        assert GenerationConfig.from_dict(fields, BartConfig(), ignore=[*fields]) == GenerationConfig.from_dict(
            {}, BartConfig()
        )


def test_settings_that_no_search_reads_are_no_obstacle() -> None:
    """As in transformers, which warns: `temperature: 0.0` says "do not sample"."""
    config = GenerationConfig.from_dict(dict(do_sample=False, temperature=0.0, early_stopping="no"), BartConfig())
    assert config.refusal is None and config.override(max_length=9).max_length == 9
    assert config.override(max_length=9).to_dict()["temperature"] == 0.0
    with pytest.raises(ValueError, match="`temperature` must be more than 0. Got 0.0. This came with the checkpoint"):
        config.override(do_sample=True)
    with pytest.raises(ValueError, match="`early_stopping` must be"):
        config.override(num_beams=2)
    assert config.override(do_sample=True, temperature=0.7).temperature == 0.7
    assert GenerationConfig.from_dict(dict(max_length=0, max_new_tokens=5), BartConfig()).refusal is None
    off = dict(penalty_alpha=0.0, max_time=None, stop_strings="", watermarking_config={}, token_healing=False)
    assert GenerationConfig.from_dict(off, BartConfig()).unusable == ()


def test_a_wrong_option_is_the_call_s_own() -> None:
    config = GenerationConfig.from_dict(dict(max_time=3, min_length=30), BartConfig())
    with pytest.raises(ValueError, match=r"`temperature` must be more than 0. Got -1.$"):
        config.override(temperature=-1, max_time=None, min_length=0)
    with pytest.raises(TypeError, match="There is no option `my_note`"):
        config.override(my_note=None)
    with pytest.raises(TypeError, match="There is no option `my_note`"):
        GenerationConfig.from_dict(dict(my_note=1), BartConfig()).override(my_note=2)
    with pytest.raises(TypeError, match="There is no option `unusable`"):
        config.override(unusable=())


def test_names_of_an_untrusted_file() -> None:
    refusal = GenerationConfig.from_dict({"x\x1b[2J": 1, "y" * 999: "z" * 999}, BartConfig()).refusal
    assert refusal is not None and refusal.isprintable()
    many = {f"field_{index}": "x" * 99 for index in range(99)}
    refusal = GenerationConfig.from_dict(many, BartConfig()).refusal
    assert refusal is not None and "So are 96 more, in `unusable`" in refusal and len(refusal) < 600
    with pytest.raises(ValueError, match="holds fields that are not known to BART: field_0, .*, ") as caught:
        BartConfig.from_dict(many)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_settings_of_generation_in_config_json(name: str) -> None:
    """transformers 5 moves them to its generation config; 4 has them in every config.json."""
    if name not in TOKENS:
        for value in (None, 3, "?"):
            assert BartConfig.from_dict({name: value}) == BartConfig()


def test_ids_that_only_generation_reads() -> None:
    """Several ends, and forced tokens that the vocabulary does not have."""
    fields = dict(eos_token_id=[7, 2], forced_bos_token_id=250004, forced_eos_token_id=[7, 2])
    config = BartConfig.from_dict(fields)
    assert (config.eos_token_id, config.forced_bos_token_id, config.forced_eos_token_id) == (7, None, None)
    generation = GenerationConfig.from_legacy_dict(fields, config)
    assert generation.eos_token_ids == generation.forced_eos_token_id == (7, 2)
    assert generation.forced_bos_token_id == 250004 and generation.refusal is None  # `generate` knows the vocabulary
    legacy = GenerationConfig.from_legacy_dict(
        dict(forced_eos_token_id="2"), BartConfig.from_dict(dict(forced_eos_token_id="2"))
    )
    assert "`forced_eos_token_id` must be" in str(legacy.refusal)


def test_fields_that_transformers_knows() -> None:
    """The attributes of BartConfig in 4.57 and 5.24, general names of BART's fields, and what HF's own tests write."""
    fields = dict(
        initializer_range=0.02, hidden_size=16, num_attention_heads=2, d_model=16, _commit_hash=None, name_or_path="x",
        _attn_implementation_internal="sdpa", _experts_implementation_internal=None, _output_attentions=False,
        tie_last_hidden_states=None, per_layer_config={}, auto_map={"AutoModel": "x.Y"}, use_return_dict=True,
    )  # fmt: skip
    config = BartConfig.from_dict(fields)
    assert (config.d_model, config.encoder_attention_heads) == (16, 2)
    with pytest.raises(ValueError, match="`hidden_size` and `d_model` are the same field. Got 8 and 16: remove one"):
        BartConfig.from_dict(dict(hidden_size=8, d_model=16))
    with pytest.raises(ValueError, match="`per_layer_config` must be None. Got"):
        BartConfig.from_dict(dict(per_layer_config={"0": {"d_model": 8}}))


def test_names_to_ignore() -> None:
    with pytest.raises(TypeError, match=r"`ignore` must be a list of names, as \['rope_theta'\]"):
        BartConfig.from_dict(dict(rope_theta=1e4), ignore="rope_theta")
    assert BartConfig.from_dict(dict(rope_theta=1e4, bart_eqx_ignore=["rope_theta"])) == BartConfig()
    for wrong in ("rope_theta", [1], {"rope_theta": 1}):
        with pytest.raises(ValueError, match="`bart_eqx_ignore` must be a list of names"):
            BartConfig.from_dict(dict(rope_theta=1e4, bart_eqx_ignore=wrong))
