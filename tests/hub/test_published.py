"""The checkpoints on the Hugging Face Hub, which are downloaded: published values, and Flax and PyTorch alike."""

import pytest
from huggingface_hub import constants

from .published import PUBLISHED, compare_formats, verify, why_unreachable


pytestmark = pytest.mark.hub


@pytest.fixture(scope="module", autouse=True)
def network() -> None:
    if why := why_unreachable(constants.ENDPOINT):
        pytest.skip(f"The Hugging Face Hub does not answer at {constants.ENDPOINT} ({why}): this needs a network.")


@pytest.mark.parametrize("repository", PUBLISHED)
def test_published_values(repository: str) -> None:
    verify(repository, *PUBLISHED[repository])


@pytest.mark.parametrize("repository", PUBLISHED)
def test_all_files_give_the_same_parameters(repository: str) -> None:
    read, left = compare_formats(repository, PUBLISHED[repository][0])
    if len(read) < 2:
        pytest.skip(f"{repository} has only {read[0]} to read: {' '.join(left)}")
