"""What is taken as a list of texts, and what the message says where it is not."""

from array import array
from collections import UserList, deque

import numpy as np
import pytest

import zh_retrieval as zr
from zh_retrieval.validation import check_items, check_texts


class Series:
    """What pandas' Series is as far as it matters: sized, ordered, one dimension, and no Sequence."""

    ndim = 1

    def __init__(self, values):
        self._values = values

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return iter(self._values)


class Frame(Series):
    """A table: its length is that of its rows, what it iterates over are the names of its columns."""

    ndim = 2


TAKEN = (list, tuple, deque, UserList, np.array, Series, lambda texts: dict(enumerate(texts)).values())


@pytest.mark.parametrize("kind", TAKEN)
def test_anything_sized_and_ordered_is_a_list_of_texts(kind, encoder):
    texts = ["绿茶", "红茶", "绿茶"]
    assert check_texts(kind(texts)) == tuple(texts)
    np.testing.assert_array_equal(encoder.encode_documents(kind(texts)), encoder.encode_documents(texts))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("绿茶", "is str, expected a list of str. Wrap one text in a list."),
        (b"tea", "is bytes, expected a list of str."),
        (None, "is NoneType, expected a list of str."),
        (7, "is int, expected a list of str."),
        ({"茶": 1}, "is dict, expected a list of str. Make a list of it."),
        ({"茶"}, "is set, expected a list of str. Make a list of it."),
        ((text for text in ["茶"]), "is generator, expected a list of str. Make a list of it."),
        (Frame(["text"]), "is Frame, expected a list of str. Make a list of it."),
        (np.array([["茶"]]), "is ndarray, expected a list of str. Make a list of it."),
    ],
)
def test_the_message_says_what_was_given_and_what_helps(given, message):
    with pytest.raises(zr.InputError) as caught:
        check_texts(given)
    assert str(caught.value) == f"texts {message}"


@pytest.mark.parametrize("given", [array("i", [1]), np.array([1.0]), deque([None])])
def test_elements_that_are_no_text_are_named_by_index(given):
    with pytest.raises(zr.InputError, match=r"^texts\[0\] is .*, expected str"):
        check_texts(given)


def test_what_is_returned_is_what_was_given_at_the_call():
    texts = ["一", "二"]
    taken = check_texts(texts)
    texts.clear()
    assert taken == ("一", "二")
    items = deque([1, 2])
    assert check_items(items, int, "items") == (1, 2)
