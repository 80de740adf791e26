"""The command line, `zh-retrieval`. The only place that prints."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from zh_retrieval import __version__
from zh_retrieval.cli.console import prepare, say, to_nowhere
from zh_retrieval.errors import ZhRetrievalError

_COMMANDS = (
    "models",
    "download",
    "embed",
    "rerank",
    "demo",
    "serve",
    "eval",
    "questions",
    "label",
    "negatives",
    "bench",
    "doctor",
)


class Parser(argparse.ArgumentParser):
    """Names the command or the flag that was probably meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Mapping[str, argparse.ArgumentParser] = {}

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)'", message)
        super().error(message + (_meant([found[1]], _COMMANDS) if found else ""))

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Return the arguments; ends the program, as argparse does, where there are unknown ones."""
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            chosen = self.commands[arguments.command]
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, chosen.format_help().split())}")
        return arguments


def _meant(given: Sequence[str], known: Sequence[str]) -> str:
    words = [word.partition("=")[0][:80] for word in given]
    close = [found[0] for word in words if (found := difflib.get_close_matches(word, known, n=1))]
    return f". Did you mean {', '.join(close)}?" if close else ""


def parser() -> Parser:
    """Return the parser of all commands."""
    whole = Parser(prog="zh-retrieval", description="Chinese retrieval models on the command line.")
    whole.add_argument("--version", action="version", version=f"zh-retrieval {__version__}")
    whole.add_argument("-v", "--verbose", action="store_true", help="show the library's log")
    subparsers = whole.add_subparsers(dest="command", required=True, parser_class=argparse.ArgumentParser)
    for name in _COMMANDS:
        module = importlib.import_module(f"zh_retrieval.cli.commands.{name}")
        module.register(subparsers.add_parser(name, help=module.HELP, description=module.HELP))
    whole.commands = subparsers.choices
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 fine, 1 nothing right, 2 a typed error, 130 interrupted."""
    prepare()
    arguments = parser().read(argv)
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    logging.getLogger("zh_retrieval").setLevel(level)
    module = importlib.import_module(f"zh_retrieval.cli.commands.{arguments.command}")
    try:
        status: int = module.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except ZhRetrievalError as error:
        say(str(error))
        return 2
    except BrokenPipeError:  # the reader went away: as quiet as `head` makes every other program
        to_nowhere(sys.stdout)
        return 141
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except OSError as error:
        say(f"{error}. What was finished is kept: run the same command again.")
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
