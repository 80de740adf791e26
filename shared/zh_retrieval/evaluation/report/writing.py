"""What an evaluation leaves on disk: runs, the page, a picture. Whether they can be written is known beforehand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.evaluation.report.chart import chart
from zh_retrieval.evaluation.report.language import Language, of_locale
from zh_retrieval.evaluation.report.page import render
from zh_retrieval.evaluation.report.runs import write_runs
from zh_retrieval.evaluation.results import Evaluation
from zh_retrieval.files.whole import write_whole

_ZOOM = 2  # 1920 x 1080 pixels
_FORMATS = (".svg", ".png")


def check_outputs(outputs: Mapping[str, Path]) -> None:
    """Say before anything is computed what `write_outputs` would say after it.

    Args:
        outputs: "report", "picture", "runs" -> where.

    Raises:
        ConfigError: A folder is not there or cannot be written to, a name is that of a folder, or that of no picture.
        MissingExtraError: A PNG is wanted and resvg-py is not installed.
    """
    for name, path in outputs.items():
        if name == "runs":
            _check_folder(path)
            continue
        if path.is_dir():
            raise ConfigError(f"--{name} {str(path)!r} is a folder. Give the name of a file.")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"--{name} {str(path)!r}: there is no folder {folder}. Create it, or give another name.")
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"--{name} {str(path)!r}: {folder} cannot be written to. Give another name.")
    if "picture" in outputs:
        check_picture(outputs["picture"])


def _check_folder(path: Path) -> None:
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ConfigError(f"--runs {str(path)!r}: {there} is a file. Give a folder.")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"--runs {str(path)!r}: {there} cannot be written to. Give another folder.")


def check_picture(path: Path) -> None:
    """Raise ConfigError for a name that ends neither in .svg nor in .png, MissingExtraError for .png without resvg."""
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{str(path)!r} is no picture. Give a name that ends in {' or '.join(_FORMATS)}.")
    if path.suffix.lower() == ".png":
        try:
            import resvg_py  # noqa: F401
        except ImportError as error:
            raise MissingExtraError('resvg-py is not installed. Run: pip install "zh-retrieval[eval]"') from error


def write_outputs(evaluation: Evaluation, outputs: Mapping[str, Path], language: Language | None = None) -> None:
    """Write what is wanted; `language` is the locale's by default."""
    if "runs" in outputs:
        write_runs(evaluation, outputs["runs"])
    if "report" in outputs:
        write(evaluation, outputs["report"], language)
    if "picture" in outputs:
        write_picture(evaluation, outputs["picture"], language)


def write(evaluation: Evaluation, path: Path, language: Language | None = None) -> None:
    """Write the report as one HTML file that loads nothing, in Chinese or English: see `page.render`."""
    page = render(evaluation, language)
    write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))


def write_picture(evaluation: Evaluation, path: Path, language: Language | None = None) -> None:
    """Write quality and cost, dark on white: SVG of 960 x 540 or higher, or PNG of twice that, drawn from the same SVG.

    Raises:
        ConfigError: Another format.
        MissingExtraError: A PNG is wanted and resvg-py is not installed.
    """
    check_picture(path)
    drawn = chart(evaluation, language or of_locale(), ink="#1d2330", paper="#ffffff")
    content = drawn.encode("utf-8")
    if path.suffix.lower() == ".png":
        import resvg_py

        content = resvg_py.svg_to_bytes(svg_string=drawn, zoom=_ZOOM)
    write_whole(path, lambda file: file.write_bytes(content))
