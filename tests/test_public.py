"""The package's names, which are imported when they are asked for."""

import bart_eqx


def test_every_public_name_is_there() -> None:
    assert {"BartModel", "from_pretrained", "generate", "training"} <= set(dir(bart_eqx))
    for name in dir(bart_eqx):
        assert getattr(bart_eqx, name) is not None
    assert bart_eqx.__version__ and not hasattr(bart_eqx, "BartForMaskedLM")
