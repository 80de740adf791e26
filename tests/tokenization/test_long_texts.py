"""One long text is tokenized while other threads of Python go on, and as a short one is."""

import threading
import time

import pytest

import zh_retrieval as zr

SENTENCE = "绿茶要用八十度的水冲泡，红茶要用沸水。"


@pytest.fixture(scope="module")
def tokenizer():
    with zr.load_encoder("e5-small-zh") as encoder:
        yield encoder.tokenizer


def longest_pause(work):
    """Return the longest time, in seconds, that this thread could not run while another one works."""
    thread = threading.Thread(target=work)
    pauses, last = [], time.perf_counter()
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        pauses.append(now - last)
        last = now
    return max(pauses)


@pytest.mark.timing
@pytest.mark.parametrize("of", ["ids", "ids_with_offsets"])
def test_other_threads_go_on(tokenizer, of):
    text = SENTENCE * 10_000
    work = {"ids": lambda: tokenizer.ids([text]), "ids_with_offsets": lambda: tokenizer.ids_with_offsets(text)}[of]
    start = time.perf_counter()
    pause = min(longest_pause(work) for _ in range(2))
    assert pause < (time.perf_counter() - start) / 2 / 3  # a third of one call's time; whole, where it holds the lock


def test_a_long_text_has_the_ids_of_its_batch(tokenizer):
    text = SENTENCE * 100
    (alone,), (first, _) = tokenizer.ids([text]), tokenizer.ids([text, SENTENCE])
    ids, offsets = tokenizer.ids_with_offsets(text)
    assert alone == first == ids
    assert [text[low:high] for low, high in offsets[-3:]] == ["沸", "水", "。"]
