"""Build the wheel, install it without extras into an environment of its own, and look at what a user would get.

Run by `make wheel`. The environment has the wheel's own dependencies from the development environment, but neither
LangChain nor LlamaIndex.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"zh_retrieval", "langchain_zh_retrieval", "llama_index_zh_retrieval"}
FRAMEWORKS = ("langchain", "langsmith", "llama_index", "pydantic", "torch", "transformers")

CHECK = """
import sys
import zh_retrieval as zr
heavy = {"torch", "transformers", "numpy", "pydantic"} & set(sys.modules)
assert not heavy, heavy
assert len(zr.MODELS) == 54
for package, extra in (("langchain_zh_retrieval", "langchain"), ("llama_index_zh_retrieval", "llama-index")):
    try:
        __import__(package)
    except zr.MissingExtraError as error:
        assert f'pip install "zh-retrieval[{extra}]"' in str(error), error
    else:
        raise AssertionError(f"{package} imported without its extra")
encoder = zr.load_encoder("builtin", device="cpu")
assert encoder.encode_queries(["如何泡茶"]).shape == (1, 384)
print("wheel: three packages, lazy import, typed errors without extras, vectors")
"""


def main() -> None:
    """Exit with an error if the wheel is not what it should be."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build(Path(scratch))
        _check_contents(wheel)
        python = _install(wheel, Path(scratch) / "env")
        subprocess.run([python, "-c", CHECK], check=True, cwd=scratch)
        shown = subprocess.run(
            [python.with_name("zh-retrieval"), "demo", "--json"],
            check=False,
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        assert '"framework": "core"' in shown.stdout, shown.stderr[-2000:]
        print("wheel: demo falls back to the core")


def build(scratch: Path) -> Path:
    """Return the wheel of this checkout, built into a folder."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(scratch.glob("*.whl"))


def _check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == PACKAGES, tops
    for needed in (
        "zh_retrieval/py.typed",
        "zh_retrieval/builtin/e5-small-zh/model.q4.safetensors",
        "zh_retrieval/builtin/e5-small-zh/LICENSE",
        "zh_retrieval/builtin/demo/corpus.jsonl",
        *(f"zh_retrieval/server/playground/{name}" for name in ("index.html", "page.css", "page.js")),
    ):
        assert needed in names, needed
    _check_page(wheel, names)
    size = wheel.stat().st_size / 1e6
    assert size < 30, f"{size:.0f} MB"


def _check_page(wheel: Path, names: list[str]) -> None:
    """Check what a package index shows: no link to a file beside README.md, and where each page lies instead."""
    page = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert not re.findall(r"\]\((?!https?:)", page), "a link of README.md is relative"
    pages = re.findall(r"\(`(\S+)` in the installed package\)", page)
    assert len(pages) >= 10, pages
    assert set(pages) <= set(names), set(pages) - set(names)


def _install(wheel: Path, environment: Path) -> Path:
    """Install the wheel alone and lend it the development environment's packages, frameworks left out."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    mine = Path(next(path for path in sys.path if path.endswith("site-packages")))
    site = next((environment / "lib").glob("python*")) / "site-packages"
    for entry in mine.iterdir():
        lent = entry.name.lower().startswith((*FRAMEWORKS, "zh_retrieval", "_zh_retrieval", "_virtualenv", "pip"))
        if not lent and not (site / entry.name).exists() and not entry.name.endswith((".pth", ".pyc")):
            (site / entry.name).symlink_to(entry)
    return python


if __name__ == "__main__":
    main()
