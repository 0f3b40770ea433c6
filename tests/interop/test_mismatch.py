"""The one error for all that differs: whole where it is short, summed up where it is long."""

import pickle

import pytest

from resnet_jax.errors import WeightsError
from resnet_jax.interop.layout import mismatch


def entries(count, name):
    return [f"{name}.{index:03}" for index in range(count)]


def test_a_message_is_one_line():
    assert str(WeightsError("one\n  two")) == "one two"


@pytest.mark.parametrize("counts", [(1, 0, 0), (4, 4, 4), (0, 12, 0)])
def test_a_dozen_entries_are_all_in_the_line(counts):
    lists = [entries(count, name) for count, name in zip(counts, "abc", strict=True)]
    error = mismatch("a.pth", *lists, hint="; do this")
    assert all(entry in str(error) for names in lists for entry in names)
    assert not hasattr(error, "__notes__")
    assert str(error).endswith("; do this")


@pytest.mark.parametrize("counts", [(13, 0, 0), (300, 300, 300), (5, 5, 5), (0, 1, 500)])
def test_more_are_summed_up_and_listed_in_the_traceback(counts):
    names = [f"layer{index}.0.conv1.weight" for index in range(3)]
    lists = [entries(count, name) for count, name in zip(counts, names, strict=True)]
    error = mismatch("weights.safetensors", *lists, hint="; they fit resnet50")
    message = str(error)
    assert len(message) < 300 and message.endswith("; they fit resnet50")
    notes = "\n".join(error.__notes__)
    for count, names, kind in zip(
        counts, lists, ("missing", "unexpected", "of another shape"), strict=True
    ):
        assert (f"{count} {kind} ({names[0]}" in message) if count else (kind not in message)
        assert all(f"\n  {name}" in notes for name in names)
    assert (len(error.missing), len(error.unexpected), len(error.misshaped)) == counts


def test_it_goes_from_process_to_process():
    error = mismatch("a.pth", ["b"], [], [])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and copy.missing == ("b",)
