"""What config.json and generation_config.json hold beside a BART: kept, carried along, and refused where it is used."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest

import bart_eqx
from bart_eqx import BartConfig, GenerationConfig, from_flax, from_pretrained, generate, save_pretrained, to_flax
from bart_eqx.checkpoint.errors import ConfigurationError
from bart_eqx.convert import convert, main
from bart_eqx.convert.verify import verify


REFERENCES = Path(__file__).parent / "references"
Model = bart_eqx.BartForConditionalGeneration
SOURCE = np.array([5, 6, 7, 2])
# Of a BART that turns letters into sounds: its tokenizer is these two strings.
OWN = dict(grapheme_chars=["<pad>", "a", "b"], phoneme_chars="abc", nested={"a": [1, None]})
TASKS = {"summarization": {"max_length": 128, "min_length": 12}}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def edit(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(read(path) | fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(REFERENCES / "converted", tmp_path / "folder")
    return tmp_path / "folder"


class TestConversionLosesNothing:
    def test_ignored_fields(self, folder: Path, tmp_path: Path) -> None:
        """They are in the new folder, which needs no second `ignore`."""
        edit(folder / "config.json", OWN | dict(task_specific_params=TASKS))
        edit(folder / "generation_config.json", dict(mine=[3]))
        with pytest.raises(ConfigurationError, match=r"not known to BART: grapheme_chars.*ignore=\['grapheme_chars'"):
            convert(folder, tmp_path / "refused")
        done = convert(folder, tmp_path / "one", ignore=[*OWN, "mine", "absent"])
        assert done.ignored == ("grapheme_chars", "mine", "nested", "phoneme_chars")
        assert "ignored     grapheme_chars, mine, nested, phoneme_chars (kept)" in str(done)
        convert(tmp_path / "one", tmp_path / "two")
        assert main([str(tmp_path / "one"), "-o", str(tmp_path / "flax"), "--to", "flax"]) == 0
        for name in ("one", "two", "flax"):
            fields = read(tmp_path / name / "config.json")
            assert fields.items() >= OWN.items() and fields["task_specific_params"] == TASKS
            assert fields["bart_eqx_ignore"] == [*done.ignored]
            assert read(tmp_path / name / "generation_config.json")["mine"] == [3]
            model = from_pretrained(tmp_path / name, Model)
            assert model.config == BartConfig.from_dict(fields)
            assert model.generation_config.refusal is None
            verify(tmp_path / name)
        assert (tmp_path / "one/config.json").read_bytes() == (tmp_path / "two/config.json").read_bytes()

    def test_all_fields(self, folder: Path, tmp_path: Path) -> None:
        """Those without a meaning here too; those that describe the weights are the new ones."""
        others = dict(author="x", sep_token_id=5, use_cache=False, num_beams=7, hidden_size=8, dtype="float16")
        edit(folder / "config.json", others | dict(architectures=["BartModel", "BartForConditionalGeneration"]))
        runs = dict(cache_implementation="static", transformers_version="5.1", num_assistant_tokens=7, max_time=3)
        edit(folder / "generation_config.json", runs)
        before = [read(folder / name) for name in ("config.json", "generation_config.json")]
        convert(folder, tmp_path / "target")
        after = [read(tmp_path / "target" / name) for name in ("config.json", "generation_config.json")]
        assert after[1] == before[1]
        rewritten = dict(architectures=["BartForConditionalGeneration"], torch_dtype="float32")
        assert after[0].items() >= ({n: v for n, v in before[0].items() if n != "dtype"} | rewritten).items()
        assert "dtype" not in after[0] and "bart_eqx_ignore" not in after[0]
        assert from_pretrained(tmp_path / "target", Model).generation_config.num_beams == 1  # as in the source

    def test_of_an_older_checkpoint(self, folder: Path, tmp_path: Path) -> None:
        (folder / "generation_config.json").unlink()
        edit(folder / "config.json", dict(num_beams=3, max_time=2, max_new_tokens=4, renormalize_logits=True))
        convert(folder, tmp_path / "target")
        settings = read(tmp_path / "target/generation_config.json")
        assert (settings["num_beams"], settings["max_time"], settings["max_new_tokens"]) == (3, 2, 4)
        assert read(tmp_path / "target/config.json")["num_beams"] == 3  # transformers before 4.26 reads it there
        first, second = (from_pretrained(f, Model) for f in (folder, tmp_path / "target"))
        assert eqx.tree_equal(first, second) and first.generation_config.renormalize_logits

    def test_with_other_settings(self, folder: Path, tmp_path: Path) -> None:
        settings = GenerationConfig(num_beams=5, max_length=11)
        convert(folder, tmp_path / "target", generation_config=settings)
        assert from_pretrained(tmp_path / "target", Model).generation_config == settings


class TestOpening:
    @pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
    @pytest.mark.parametrize("cls", [bart_eqx.BartForConditionalGeneration, bart_eqx.BartForCausalLM])
    def test_settings_are_kept_and_refused_by_generate(
        self, folder: Path, tmp_path: Path, name: str, cls: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        if name == "config.json":
            (folder / "generation_config.json").unlink()
        edit(folder / name, dict(max_time=3.5, min_length=9, max_length=4, penalty_alpha=None))
        with caplog.at_level(logging.WARNING, "bart_eqx"):
            model: Any = from_pretrained(folder, cls)
        assert "`generate` refuses settings of this checkpoint: `max_time=3.5` is not implemented" in caplog.text
        with pytest.raises(ValueError, match="`max_time=3.5` is not implemented.*This came with the checkpoint"):
            generate(model, SOURCE)
        with pytest.raises(ValueError, match="`min_length` must not be more than `max_length`. Got 9 and 4. This came"):
            generate(model, SOURCE, max_time=None)
        with pytest.raises(ValueError, match="`max_time=3.5` is not implemented"):
            bart_eqx.stream(model, SOURCE)
        assert generate(model, SOURCE, max_time=None, max_length=12).sequences.shape == (12,)
        save_pretrained(model, tmp_path / "saved")
        assert read(tmp_path / "saved/generation_config.json").items() >= dict(max_time=3.5, min_length=9).items()
        assert eqx.tree_equal(from_pretrained(tmp_path / "saved"), model)

    def test_custom_settings(self, folder: Path) -> None:
        edit(folder / "generation_config.json", dict(mine="x", vocab_size=41, architectures=["BartModel"]))
        model = from_pretrained(folder, Model)
        with pytest.raises(ValueError, match="`mine` is not a setting that is known here. Got 'x'. This came with"):
            generate(model, SOURCE)
        expected = generate(from_pretrained(REFERENCES / "converted", Model), SOURCE, max_length=9).sequences
        np.testing.assert_array_equal(generate(model, SOURCE, max_length=9, mine=None).sequences, expected)
        np.testing.assert_array_equal(
            generate(from_pretrained(folder, Model, ignore=["mine"]), SOURCE, max_length=9).sequences, expected
        )

    @pytest.mark.parametrize("semantics", ["pytorch", "flax"])
    def test_no_sampling_with_temperature_zero(self, folder: Path, semantics: Any) -> None:
        edit(folder / "generation_config.json", dict(do_sample=False, temperature=0.0))
        model, plain = from_pretrained(folder, Model), from_pretrained(REFERENCES / "converted", Model)
        expected = generate(plain, SOURCE, max_length=9, semantics=semantics).sequences
        np.testing.assert_array_equal(generate(model, SOURCE, max_length=9, semantics=semantics).sequences, expected)
        with pytest.raises(ValueError, match="`temperature` must be more than 0. Got 0.0. This came"):
            generate(model, SOURCE, do_sample=True)

    def test_a_token_that_the_vocabulary_lacks(self, folder: Path) -> None:
        (folder / "generation_config.json").unlink()
        edit(folder / "config.json", dict(forced_bos_token_id=250004, eos_token_id=[2, 7]))
        model = from_pretrained(folder, Model)
        with pytest.raises(
            ValueError, match=r"`forced_bos_token_id` has \[250004\], but the model's tokens are 0 to 40"
        ):
            generate(model, SOURCE)
        assert model.generation_config.eos_token_ids == (2, 7)
        assert generate(model, SOURCE, forced_bos_token_id=None, max_length=9).sequences.shape == (9,)

    def test_ignore(self, folder: Path) -> None:
        edit(folder / "config.json", OWN)
        with pytest.raises(ConfigurationError, match=r"grapheme_chars.*pass ignore=\['grapheme_chars', "):
            from_pretrained(folder)
        loaded = from_pretrained(folder, ignore=[*OWN])
        assert eqx.tree_equal(loaded, from_pretrained(REFERENCES / "converted"))
        verify(folder, ignore=[*OWN])
        assert main(["--verify", str(folder)]) == 2
        assert main(["--verify", str(folder), *(f"--ignore={name}" for name in OWN)]) == 0
        with pytest.raises(TypeError, match="^`ignore` must be a list of names"):
            from_pretrained(folder, ignore="nested")
        edit(folder / "config.json", dict(bart_eqx_ignore="nested"))
        with pytest.raises(
            ConfigurationError, match="config.json: `bart_eqx_ignore` must be a list of names. Got 'nes"
        ):
            from_pretrained(folder)

    def test_given_settings(self, folder: Path) -> None:
        """They replace the file, which is not read."""
        settings = GenerationConfig(num_beams=3, max_length=9)
        (folder / "generation_config.json").write_text("{")
        for cls in (Model, bart_eqx.BartForCausalLM):
            assert from_pretrained(folder, cls, generation_config=settings).generation_config == settings
        model = from_pretrained(folder, Model, generation_config=settings)
        params = to_flax(model)
        assert eqx.tree_equal(from_flax(params, model.config, Model, generation_config=settings), model)
        with pytest.raises(ValueError, match="`generation_config` was given, and a BartModel does not generate"):
            from_pretrained(folder, bart_eqx.BartModel, generation_config=settings)
        with pytest.raises(ValueError, match="a BartModel does not generate"):
            from_flax(params, model.config, bart_eqx.BartModel, generation_config=settings)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_deeply_nested(folder: Path, name: str) -> None:
    """Python's parser takes some hundred levels more than functions that call themselves at each."""
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    deep: Any = []
    for _ in range(450):
        deep = [deep]
    edit(folder / name, dict(suppress_tokens=deep))
    with pytest.raises(bart_eqx.CheckpointError, match="nested more than 100 levels"):
        from_pretrained(folder)
