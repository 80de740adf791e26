"""Pauses that take no time: ours by the policy, the client's by its own seams."""

import time
from dataclasses import dataclass, field

import pytest
from modelscope_hub._download_control import _DownloadControl

from zh_retrieval.hub.retry import RetryPolicy


@dataclass
class Pauses:
    """The pauses that were made between tries, in seconds, and a policy that makes them without waiting."""

    made: list[float] = field(default_factory=list)

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(sleep=self.made.append)


@pytest.fixture
def pauses(monkeypatch):
    """Return the pauses that are made between tries; the client's take a hundredth of their time."""
    pauses = Pauses()
    sleep, wait = time.sleep, _DownloadControl.sleep

    def short_sleep(seconds: float) -> None:
        pauses.made.append(seconds)
        sleep(seconds / 100)

    def short_wait(control: _DownloadControl, seconds: float) -> None:
        pauses.made.append(seconds)
        wait(control, seconds / 100)

    monkeypatch.setattr(time, "sleep", short_sleep)
    monkeypatch.setattr(_DownloadControl, "sleep", short_wait)
    return pauses
