"""What is tried again, what is not, and who does it."""

import errno

import pytest
import requests

from zh_retrieval.errors import DownloadError
from zh_retrieval.hub.retry import AbsentError, Request, RetryPolicy, attempt


class AnswerError(Exception):
    """A client's error that carries a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status


class Action:
    """Fails with each of `errors` in turn, then returns "done"."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def run(action, pauses, **request):
    return attempt(Request("files of m", "modelscope-hub", **request), action, RetryPolicy(sleep=pauses.append))


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("cut"), requests.Timeout("silent"), ConnectionResetError("reset"),
        TimeoutError("late"), requests.exceptions.ChunkedEncodingError("short"), AnswerError(408), AnswerError(429),
        AnswerError(500), AnswerError(503),
    ],
    ids=repr,
)  # fmt: skip
def test_what_can_pass_is_tried_again(error):
    pauses = []
    action = Action(error, error)
    assert run(action, pauses) == "done"
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("no attribute '_download'"), TypeError("unexpected keyword"), ImportError("gone"),
        ValueError("not JSON"), KeyError("Data"), AssertionError("no"), AnswerError(400), AnswerError(422),
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_pass_is_raised_at_once_and_names_the_clients_version(error):
    pauses = []
    action = Action(error)
    with pytest.raises(DownloadError, match=rf"after 1 try: {type(error).__name__}.*\(modelscope-hub \d") as caught:
        run(action, pauses)
    assert (action.calls, pauses) == (1, [])
    assert caught.value.__cause__ is error
    assert "it resumes" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_interruption_passes_through(error):
    with pytest.raises(type(error)):
        run(Action(error), [])


def test_what_stays_ends_after_the_tries_of_the_policy():
    pauses = []
    action = Action(*[AnswerError(500)] * 9)
    with pytest.raises(DownloadError, match=r"files of m could not be fetched after 4 tries.*Try again: it resumes\."):
        run(action, pauses)
    assert (action.calls, pauses) == (4, [0.5, 1.0, 2.0])


def test_what_the_client_has_tried_again_is_not_tried_once_more():
    action = Action(*[AnswerError(500)] * 9)
    with pytest.raises(DownloadError, match="after 6 tries"):
        run(action, [], spent=lambda causes: True, client_tries=6)
    assert action.calls == 1


def test_a_line_that_breaks_again_and_again_goes_on_while_bytes_arrive():
    arrived = iter([0, 10, 10, 25, 25, 25])
    action = Action(*[ConnectionResetError("cut")] * 9)
    with pytest.raises(DownloadError, match="after 18 tries"):
        run(action, [], spent=lambda causes: True, client_tries=6, progress=lambda: next(arrived))
    assert action.calls == 3  # the third brought nothing


def test_the_pause_that_a_hub_asks_for_is_made_up_to_a_limit():
    pauses = []
    errors = [AnswerError(429), AnswerError(429), AnswerError(429)]
    errors[0].retry_after = 7
    errors[1].response = type("Response", (), {"headers": {"Retry-After": "1e9"}, "status_code": 429})
    errors[2].response = type("Response", (), {"headers": {"Retry-After": "Wed, 21 Oct"}, "status_code": 429})
    assert run(Action(*errors), pauses) == "done"
    assert pauses == [7, 30, 2]


def test_404_is_absent_only_where_it_may_be():
    with pytest.raises(AbsentError):
        run(Action(AnswerError(404)), [], may_be_absent=True)
    with pytest.raises(DownloadError, match="after 1 try"):
        run(Action(AnswerError(404)), [])


def test_a_full_disk_is_itself():
    with pytest.raises(OSError, match="No space left") as caught:
        run(Action(OSError(errno.ENOSPC, "No space left on device")), [])
    assert not isinstance(caught.value, DownloadError)
