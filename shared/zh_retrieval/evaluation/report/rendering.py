"""Templates to text: every value is escaped, and what cannot be written is shown as what it is."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from zh_retrieval.errors import MissingExtraError
from zh_retrieval.evaluation.results import SystemResult
from zh_retrieval.files.utf8 import writable

if TYPE_CHECKING:
    from jinja2 import Environment

_MEGA = 1_000_000


def rendered(template: str, **values: Any) -> str:
    """Return a template of this folder with the values in it.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    return _environment().get_template(template).render(**values)


def number(value: float | None) -> str:
    """Return a cost with as many digits as it deserves, "–" for what was not measured."""
    if value is None:
        return "–"
    return f"{value:,.{0 if value >= 10 else 1 if value >= 0.1 else 2}f}"


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise MissingExtraError('jinja2 is not installed. Run: pip install "zh-retrieval[eval]"') from error
    environment = Environment(
        loader=PackageLoader("zh_retrieval.evaluation.report"), autoescape=True, finalize=_shown, trim_blocks=True
    )
    environment.filters |= {
        "number": number,
        "megabytes": lambda size: number(None if size is None else size / _MEGA),
        "interval": _interval,
        "mark": lambda result: "*" if result.costs.earlier else "",
    }
    return environment


def _shown(value: Any) -> Any:
    """Return a text without what no page may hold: texts of a corpus may hold anything."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return writable("".join(char if char >= " " or char in "\n\t" else "\ufffd" for char in value))


def _interval(result: SystemResult, metric: str) -> str:
    low, high = result.intervals[metric]
    return f"{low:.3f} – {high:.3f}" if low <= high else "–"  # one question: not a number
