"""`zh-retrieval serve`: models over HTTP."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.console import say
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.recipes.catalogue import DEFAULT_ENCODER

if TYPE_CHECKING:
    from zh_retrieval.server.configuration import Configuration
    from zh_retrieval.server.settings import Settings

HELP = "serve models over HTTP, in OpenAI's, TEI's, Jina's and Cohere's dialects and our own"

_DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1", "port": 8080, "unix_socket": None, "drain": 30.0, "max_connections": 1000, "log": None,
}  # fmt: skip
_SETTINGS = (  # whose defaults are those of `Settings`
    "root_path", "max_texts", "max_body_bytes", "max_pending_bytes", "max_queue_tokens", "max_wait", "stuck_after",
    "transfer_seconds", "public_metrics", "cors_origin",
)  # fmt: skip
_SWITCH = 0.001  # seconds that another thread of Python keeps the event loop waiting: it is woken for each 256 kB


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--model", "-m", action="append", metavar="NAME[=FOLDER]",
        help="a model, with the folder of its weights if they are yours; give it once a model (default: built in)",
    )  # fmt: skip
    parser.add_argument(
        "--served-model-name", action="append", metavar="NAME=ALIAS",
        help="what clients call a model; the side still follows: ALIAS-query. Give it once a model",
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE.toml", help="these flags, and options for each model; flags win")
    parser.add_argument("--host", help="default: 127.0.0.1, this machine only; 0.0.0.0 is all")
    parser.add_argument("--port", type=int, help="default: 8080; 0 is any free one")
    parser.add_argument("--unix-socket", metavar="FILE", help="listen there instead of on a port")
    parser.add_argument("--root-path", metavar="/PREFIX", help="of every path, behind a proxy")
    parser.add_argument("--max-texts", type=int, help="most texts of a request (2048)")
    parser.add_argument("--max-body-bytes", type=int, help="most bytes of a request (4000000)")
    parser.add_argument(
        "--max-pending-bytes", type=int,
        help="bytes of all requests under way after which others are refused with 429 (64000000)",
    )  # fmt: skip
    parser.add_argument(
        "--max-queue-tokens", type=int,
        help="waiting tokens after which requests are refused with 429 (262144)",
    )  # fmt: skip
    parser.add_argument(
        "--max-wait", type=float, metavar="SECONDS",
        help="requests are refused with 429, too, when what waits before them takes longer (30)",
    )  # fmt: skip
    parser.add_argument("--max-connections", type=int, help="most connections at a time (1000)")
    parser.add_argument(
        "--transfer-seconds", type=float, metavar="SECONDS",
        help="in which a body must have come, and an answer must have been taken (60)",
    )  # fmt: skip
    parser.add_argument(
        "--stuck-after", type=float, metavar="SECONDS",
        help="for one forward pass, after which /readyz is 503; after five times as long /livez is, too (60)",
    )  # fmt: skip
    parser.add_argument("--cors-origin", action="append", help="a web page that may ask; '*' is any")
    parser.add_argument("--public-metrics", action="store_true", default=None, help="/metrics needs no key")
    parser.add_argument(
        "--drain", type=float, metavar="SECONDS",
        help="for work under way at SIGTERM, SIGINT or SIGHUP (30)",
    )  # fmt: skip
    parser.add_argument("--log", choices=("text", "json"), default=None, help="one line a request on standard error")
    add_load_flags(parser, remote=False)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    try:
        from zh_retrieval.server.app import App
        from zh_retrieval.server.configuration import Configuration, read
        from zh_retrieval.server.host import Host
        from zh_retrieval.server.operation.logs import log_requests
        from zh_retrieval.server.settings import KEYS_VARIABLE
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'{error.name} is not installed. Run: pip install "zh-retrieval[server]"') from error
    configuration = read(arguments.config) if arguments.config else Configuration()
    given = {**_DEFAULTS, **configuration.flags, **_given(arguments)}
    if given["log"] not in (None, "text", "json"):
        raise ConfigError(f"log is {given['log'][:40]!r}, expected 'text' or 'json'.")
    log_requests(given["log"])
    settings = _settings(arguments, given, configuration)
    file = given["unix_socket"]
    if not settings.keys and not file and given["host"] not in ("127.0.0.1", "::1", "localhost"):
        say(
            f"everybody who reaches {given['host']} may ask: "
            f"set {KEYS_VARIABLE} to a key, and put a proxy with TLS before it"
        )
    host = Host(
        App(settings), given["host"], given["port"], given["drain"], lambda url: _announce(url, settings),
        given["max_connections"], file,
    )  # fmt: skip
    sys.setswitchinterval(_SWITCH)
    host.run()
    return host.status


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the server's flags that were given."""
    said = {name: getattr(arguments, name) for name in (*_DEFAULTS, *_SETTINGS)}
    return {name: value for name, value in said.items() if value is not None}


def _settings(arguments: argparse.Namespace, given: dict[str, Any], file: Configuration) -> Settings:
    from zh_retrieval.server.settings import Settings, keys_of_environment

    ours = ("max_queue_tokens", "served_model_name")
    options = {name: value for name, value in load_options(arguments).items() if name not in ours}
    known = {name: given[name] for name in _SETTINGS if name in given and name != "cors_origin"}
    return Settings(
        models=tuple(arguments.model or file.models or (DEFAULT_ENCODER,)),
        options=options,
        model_options={} if arguments.model else file.options,
        served_model_names={**({} if arguments.model else file.names), **_names(arguments.served_model_name or [])},
        keys=keys_of_environment(),
        cors_origins=tuple(given.get("cors_origin", ())),
        **known,
    )


def _names(written: list[str]) -> dict[str, str]:
    """Return NAME=ALIAS as a mapping. Raises ConfigError."""
    names: dict[str, str] = {}
    for entry in written:
        name, _, alias = (part.strip() for part in entry.partition("="))
        if not name or not alias or name in names:
            raise ConfigError(
                f"--served-model-name {entry[:200]!r} is not NAME=ALIAS, or its model has a name already."
            )
        names[name] = alias
    return names


def _announce(url: str, settings: Settings) -> None:
    key = ' -H "Authorization: Bearer $ZH_RETRIEVAL_API_KEY"' if settings.keys else ""
    body = '{"input": "西湖在哪里？"}'
    print(url)
    if url.startswith("unix:"):
        file = url.removeprefix("unix:")
        print(f"Try: curl --unix-socket {file} http://localhost/v1/embeddings{key} -d '{body}'")
        sys.stdout.flush()
        return
    print(f"Documentation: {url}/docs, playground: {url}/")
    print(f"Try: curl {url}/v1/embeddings{key} -H 'Content-Type: application/json' -d '{body}'")
    sys.stdout.flush()
    logging.getLogger(__name__).info("ready")
