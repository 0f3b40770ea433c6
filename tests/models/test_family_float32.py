"""The ten networks that torchvision has, in float32; a file apart, for another process to take."""

import pytest

from tests.models.family import TORCHVISION_NAMES, assert_equal_to_twin


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_networks_equal_their_twins_in_float32(name):
    assert_equal_to_twin(name, "float32")
