"""Plain networks and shortcuts A and C against their twins, in float64."""

import pytest

from tests.models.family import assert_equal_to_twin


@pytest.mark.parametrize(
    "name, options",
    [
        ("plain18", {}),
        ("plain34", {}),
        ("resnet34", {"shortcut": "A"}),
        ("resnet34", {"shortcut": "C"}),
        ("plain20_cifar", {}),
        ("resnet32_cifar", {}),
        ("resnet32_cifar", {"shortcut": "C"}),
    ],
    ids=str,
)
def test_networks_equal_their_twins(name, options):
    size = (17, 16) if name.endswith("_cifar") else (33, 32)
    assert_equal_to_twin(name, "float64", size, **options)
