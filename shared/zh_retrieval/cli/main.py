"""The command line, `zh-retrieval`. The only place that prints."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from zh_retrieval import __version__
from zh_retrieval.cli.console import prepare, say, to_nowhere
from zh_retrieval.errors import ZhRetrievalError

_COMMANDS = ("models", "download", "embed", "rerank", "demo", "serve", "eval", "questions", "label", "bench", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 fine, 1 nothing right, 2 a typed error, 130 interrupted."""
    prepare()
    parser = argparse.ArgumentParser(prog="zh-retrieval", description="Chinese retrieval models on the command line.")
    parser.add_argument("--version", action="version", version=f"zh-retrieval {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the library's log")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name in _COMMANDS:
        module = importlib.import_module(f"zh_retrieval.cli.commands.{name}")
        module.register(subparsers.add_parser(name, help=module.HELP, description=module.HELP))
    arguments = parser.parse_args(argv)
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
