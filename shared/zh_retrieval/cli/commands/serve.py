"""`zh-retrieval serve`: models over HTTP."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from zh_retrieval.cli.console import say
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.errors import MissingExtraError
from zh_retrieval.recipes.catalogue import DEFAULT_ENCODER

if TYPE_CHECKING:
    from zh_retrieval.server.settings import Settings

HELP = "serve models over HTTP, in OpenAI's, TEI's, Jina's and Cohere's dialects and our own"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--model", "-m", action="append", metavar="NAME[=FOLDER]",
        help="a model, with the folder of its weights if they are yours; give it once a model (default: built in)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only; 0.0.0.0 is all")
    parser.add_argument("--port", type=int, default=8080, help="default: 8080; 0 is any free one")
    parser.add_argument("--max-texts", type=int, default=2048, help="most texts of a request (2048)")
    parser.add_argument("--max-body-bytes", type=int, default=32_000_000, help="most bytes of a request (32000000)")
    parser.add_argument(
        "--max-queue-tokens", type=int, default=262_144,
        help="waiting tokens after which requests are refused with 429 (262144)",
    )  # fmt: skip
    parser.add_argument("--cors-origin", action="append", default=[], help="a web page that may ask; '*' is any")
    parser.add_argument("--public-metrics", action="store_true", help="/metrics needs no key")
    parser.add_argument("--drain", type=float, default=30.0, metavar="SECONDS", help="for work under way at SIGTERM")
    parser.add_argument("--log", choices=("text", "json"), default=None, help="one line a request on standard error")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    try:
        from zh_retrieval.server.app import App
        from zh_retrieval.server.host import Host
        from zh_retrieval.server.logs import log_requests
        from zh_retrieval.server.settings import KEYS_VARIABLE
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'{error.name} is not installed. Run: pip install "zh-retrieval[server]"') from error
    log_requests(arguments.log)
    settings = _settings(arguments)
    if not settings.keys and arguments.host not in ("127.0.0.1", "::1", "localhost"):
        say(
            f"everybody who reaches {arguments.host} may ask: "
            f"set {KEYS_VARIABLE} to a key, and put a proxy with TLS before it"
        )
    host = Host(App(settings), arguments.host, arguments.port, arguments.drain, lambda url: _announce(url, settings))
    host.run()
    return 0 if host.started and not host.failed else 2


def _settings(arguments: argparse.Namespace) -> Settings:
    from zh_retrieval.server.settings import Settings, keys_of_environment

    options = {name: value for name, value in load_options(arguments).items() if name != "max_queue_tokens"}
    return Settings(
        models=tuple(arguments.model or (DEFAULT_ENCODER,)),
        options=options,
        keys=keys_of_environment(),
        max_texts=arguments.max_texts,
        max_body_bytes=arguments.max_body_bytes,
        max_queue_tokens=arguments.max_queue_tokens,
        cors_origins=tuple(arguments.cors_origin),
        public_metrics=arguments.public_metrics,
    )


def _announce(url: str, settings: Settings) -> None:
    key = ' -H "Authorization: Bearer $ZH_RETRIEVAL_API_KEY"' if settings.keys else ""
    body = '{"input": "西湖在哪里？"}'
    print(url)
    print(f"Documentation: {url}/docs, playground: {url}/")
    print(f"Try: curl {url}/v1/embeddings{key} -H 'Content-Type: application/json' -d '{body}'")
    sys.stdout.flush()
    logging.getLogger(__name__).info("ready")
