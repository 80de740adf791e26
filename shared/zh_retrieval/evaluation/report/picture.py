"""The plot as a file for a slide."""

from __future__ import annotations

from pathlib import Path

from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.evaluation.report.plot import plot
from zh_retrieval.evaluation.results import Evaluation

_ZOOM = 2  # 1920 x 1080 pixels
_FORMATS = (".svg", ".png")


def check_picture(path: Path) -> None:
    """Say before anything is computed what `write_picture` would say after it.

    Raises:
        ConfigError: The name ends neither in .svg nor in .png.
        MissingExtraError: A PNG is wanted and resvg-py is not installed.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{str(path)!r} is no picture. Give a name that ends in {' or '.join(_FORMATS)}.")
    if path.suffix.lower() == ".png":
        try:
            import resvg_py  # noqa: F401
        except ImportError as error:
            raise MissingExtraError('resvg-py is not installed. Run: pip install "zh-retrieval[eval]"') from error


def write_picture(evaluation: Evaluation, path: Path) -> None:
    """Write quality against cost, dark on white: SVG of 960 x 540, or PNG of twice that, drawn from the same SVG.

    Raises:
        ConfigError: Another format, or no system's time was measured: there is nothing to draw.
        MissingExtraError: A PNG is wanted and resvg-py is not installed.
    """
    check_picture(path)
    drawn = plot(evaluation, ink="#1d2330", paper="#ffffff")
    if not drawn:
        raise ConfigError("No system's time was measured: there is no cost to draw quality against.")
    if path.suffix.lower() == ".svg":
        path.write_text(drawn, encoding="utf-8")
        return
    import resvg_py

    path.write_bytes(resvg_py.svg_to_bytes(svg_string=drawn, zoom=_ZOOM))
