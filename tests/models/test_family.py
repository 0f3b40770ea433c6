"""The ten networks that torchvision has, in float64: logits, features, gradients, statistics."""

import pytest

from tests.models.family import TORCHVISION_NAMES, assert_equal_to_twin


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_networks_equal_their_twins_in_float64(name):
    assert_equal_to_twin(name, "float64")
