"""One long text is tokenized while other threads of Python go on, and as a short one is."""

import asyncio
import time

import pytest

import zh_retrieval as zr
from tests.contract.watching import longest_pause

SENTENCE = "绿茶要用八十度的水冲泡，红茶要用沸水。"


@pytest.fixture(scope="module")
def tokenizer():
    with zr.load_encoder("e5-small-zh") as encoder:
        yield encoder.tokenizer


@pytest.mark.timing
@pytest.mark.parametrize("of", ["ids", "ids_with_offsets"])
async def test_other_threads_go_on(tokenizer, of):
    text = SENTENCE * 10_000
    work = {"ids": lambda: tokenizer.ids([text]), "ids_with_offsets": lambda: tokenizer.ids_with_offsets(text)}[of]
    start = time.perf_counter()
    pauses = [await longest_pause(asyncio.to_thread(work)) for _ in range(2)]
    assert min(pauses) < (time.perf_counter() - start) / 2 / 3  # a third of one call's time; whole, if it has the lock


def test_a_long_text_has_the_ids_of_its_batch(tokenizer):
    text = SENTENCE * 100
    (alone,), (first, _) = tokenizer.ids([text]), tokenizer.ids([text, SENTENCE])
    ids, offsets = tokenizer.ids_with_offsets(text)
    assert alone == first == ids
    assert [text[low:high] for low, high in offsets[-3:]] == ["沸", "水", "。"]
