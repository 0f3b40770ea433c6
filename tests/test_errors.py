import pytest

from resnet_jax.errors import DataError, did_you_mean


@pytest.mark.parametrize("message", ["short", "two\n  lines", "x" * 299, "x" * 300, "x " * 400])
def test_message_is_one_short_line(message):
    text = str(DataError(message))
    assert "\n" not in text and len(text) < 300
    for part in text.split(" ... "):
        assert part.strip() in " ".join(message.split())


def test_a_long_message_keeps_its_remedy():
    text = str(DataError(f"{'x' * 300} is broken; mend it"))
    assert len(text) < 300 and text.startswith("xxx") and text.endswith("is broken; mend it")


def test_is_a_value_error():
    assert issubclass(DataError, ValueError)


def test_did_you_mean_names_what_was_probably_meant():
    assert "'cifar'" in did_you_mean("cifra", ["none", "cifar", "imagenet"])
    assert did_you_mean("xyz", ["none", "cifar", "imagenet"]) == ""
