"""An address and a name to a handle: the handshake comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zh_retrieval.errors import ConfigError
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.remote.address import Address
from zh_retrieval.remote.client import Client
from zh_retrieval.remote.dialects.base import Dialect, ModelInfo
from zh_retrieval.remote.dialects.openai import OpenAI
from zh_retrieval.remote.dialects.own import Own
from zh_retrieval.remote.dialects.tei import Tei
from zh_retrieval.remote.encoder import RemoteEncoder
from zh_retrieval.remote.portal import portal
from zh_retrieval.remote.reranker import RemoteReranker
from zh_retrieval.remote.sparse_encoder import RemoteSparseEncoder

_OURS = (
    "base_url", "api_key", "dialect", "served_model_name", "score_scale", "timeout", "overflow", "dimensions",
)  # fmt: skip
"""Options that mean something to a remote handle; the others are the server's."""
_DIALECTS: dict[str, Callable[[Client, ModelSpec, LoadOptions], Dialect]] = {
    "zh-retrieval": Own,
    "tei": Tei,
    "openai": OpenAI,
}


def connect_encoder(model: str | ModelSpec, given: dict[str, Any], options: LoadOptions) -> RemoteEncoder:
    """Return a handle on an embedding model of the server at `options.base_url`.

    Args:
        model: Name, alias or hub id, or a recipe itself.
        given: The options as the caller gave them: those that the server decides are refused.
        options: The same, completed.

    Raises:
        ConfigError: An option is the server's, the key is missing or wrong, or the server has another recipe.
        UnknownModelError: No such model, here or there.
        RemoteError: The server cannot be reached, or does not speak the dialect.
    """
    spec = get_spec(model)
    check_task(spec, "embedding")
    options.check("embedding")
    client, dialect, served = _greeted(spec, given, options, settle=True)
    return RemoteEncoder(spec, client, dialect, served, options.overflow, options.dimensions)


def connect_reranker(model: str | ModelSpec, given: dict[str, Any], options: LoadOptions) -> RemoteReranker:
    """Return a handle on a reranking model of the server at `options.base_url`. As `connect_encoder`."""
    spec = get_spec(model)
    check_task(spec, "reranking")
    if options.overflow == "window":
        raise ConfigError("overflow='window' is the server's: start it with --overflow window.")
    client, dialect, served = _greeted(spec, given, options, settle=True)
    return RemoteReranker(spec, client, dialect, served, options.overflow, options.score_scale)


def connect_sparse_encoder(spec: ModelSpec, given: dict[str, Any], options: LoadOptions) -> RemoteSparseEncoder:
    """Return a handle on the sparse side of a model of the server at `options.base_url`. As `connect_encoder`.

    Raises:
        ConfigError: As there; or the server gives no sparse vectors of this model, or speaks another dialect.
    """
    if options.dialect != "zh-retrieval":
        raise ConfigError(f"dialect={options.dialect!r} has no sparse vectors here. Use zh-retrieval serve.")
    client, dialect, served = _greeted(spec, given, options, settle=True)
    if served.sparse is None:
        portal().start(client.close())
        raise ConfigError(
            f"{client.address.url} gives no sparse vectors of {spec.name}: its weights have no sparse side, or it is "
            "of an older version."
        )
    assert isinstance(dialect, Own)
    return RemoteSparseEncoder(spec, client, dialect, served, options.overflow)


def served_by(spec: ModelSpec, options: LoadOptions) -> ModelInfo:
    """Return what the server at `options.base_url` says of a model."""
    client, _, served = _greeted(spec, {}, options, settle=False)
    portal().start(client.close())
    return served


def _greeted(
    spec: ModelSpec, given: dict[str, Any], options: LoadOptions, *, settle: bool
) -> tuple[Client, Dialect, ModelInfo]:
    """Return what talks to the server and what it says; `settle` also asks once for what holds for every request."""
    theirs = [name for name, value in given.items() if name not in _OURS and value != OPTIONS[name].default]
    if theirs:
        raise ConfigError(f"{', '.join(sorted(theirs))}: the server decides this. Leave it out next to base_url.")
    client = Client(Address(str(options.base_url), options.api_key, options.timeout))
    dialect = _DIALECTS[options.dialect](client, spec, options)
    try:
        served = portal().run(dialect.served(spec))
        _check_dimension(spec, options, served, client.address.url)
        if settle:
            portal().run(dialect.settle())
        return client, dialect, served
    except BaseException:
        portal().start(client.close())
        raise


def _check_dimension(spec: ModelSpec, options: LoadOptions, served: ModelInfo, url: str) -> None:
    """Raise ConfigError for vectors of another length than the recipe's, unless `dimensions` asks for just that."""
    if options.dimensions is not None and options.dimensions == served.dimension:
        return
    check_dimensions(spec, options.dimensions, served.dimension)
    if None not in (spec.dimension, served.dimension) and served.dimension != spec.dimension:
        raise ConfigError(
            f"{url} gives vectors of {served.dimension} numbers; {spec.name} has {spec.dimension}. It serves another "
            f"model, or a copy of another size: then say dimensions={served.dimension}."
        )
