"""What cannot be meant is refused when it is said."""

import pytest

from actors.spec import ModelError, ModelSpec


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float16"}, {"device": "tpu"}, {"dimensions": 0}, {"weights": ""}, {"weights": "fake:quick"}]
)
def test_specs_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        ModelSpec(**{"weights": "bundled", **wrong})
