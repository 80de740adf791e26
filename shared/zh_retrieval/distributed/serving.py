"""The server as an application of Ray Serve: replicas on a cluster behind one address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.server.settings import Settings, keys_of_environment

# Serve's own default of 5 requests at a time would starve a scheduler that makes batches of what waits. Ours refuses
# by tokens, in the dialect of the route; Serve's limits only keep a replica's memory bounded, so they are wider.
_DEPLOYMENT = {"name": "Retrieval", "max_ongoing_requests": 512, "max_queued_requests": 1024}
_TAKEN = {"keys", "handles", "start"}  # fields of Settings that no configuration file gives


def serve_app(args: Mapping[str, Any] | None = None) -> Any:
    """Return the server as an application for `serve.run`, or for `import_path` in a configuration file of Ray Serve.

    Each replica loads all models, proves them right and then takes requests; Serve replaces one whose `/readyz` would
    say 503. Keys come from the environment variable ZH_RETRIEVAL_API_KEY, as Serve shows `args` to whoever sees its
    dashboard. Replicas compute in as many threads as `num_cpus` in `ray_actor_options` gives them (default: 1).

    Args:
        args: `models` ("NAME" or "NAME=FOLDER", each once), any other field of `zh_retrieval.server.settings.Settings`,
            and `deployment`: options of `ray.serve.deployment`, such as `num_replicas`, `autoscaling_config` or
            `ray_actor_options`.

    Raises:
        MissingExtraError: The extra `ray` or `server` is not installed.
        ConfigError: A name in `args` is unknown, or a value makes no sense.
    """
    given = dict(args or {})
    deployment = {**_DEPLOYMENT, **given.pop("deployment", {})}
    if "keys" in given:
        raise ConfigError("Keys do not belong in args, which Serve shows. Set ZH_RETRIEVAL_API_KEY instead.")
    known = sorted({field.name for field in fields(Settings)} - _TAKEN)
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ConfigError(f"args has {', '.join(unknown)}, expected: deployment, {', '.join(known)}.")
    for name in ("models", "cors_origins"):
        if isinstance(given.get(name), str):
            raise ConfigError(f"{name} is one text, expected a list.")
        given[name] = tuple(given.get(name, ()))
    settings = Settings(**given, keys=keys_of_environment(), start="complete")
    serve = require("ray.serve")
    try:
        from zh_retrieval.distributed.hosting import ServeApp
        from zh_retrieval.server.models.served import named
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'{error.name} is not installed. Run: pip install "zh-retrieval[server]"') from error
    list(named(settings))  # what cannot be served is said here, not by replicas that die

    class Retrieval:
        async def check_health(self) -> None:
            reason = self.app.why_not_ready  # type: ignore[attr-defined]  # Serve's ingress adds it
            if reason is not None:
                raise RuntimeError(reason)

    ingress = serve.ingress(ServeApp(settings))(Retrieval)
    try:
        return serve.deployment(**deployment)(ingress).bind()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Ray Serve refuses args['deployment']: {error}") from error
