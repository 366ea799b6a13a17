"""Connections to the parent's API: kubernetes_asyncio loads the configuration, its aiohttp session carries our verbs.

Role: kubeconfig or in-cluster service account -> `HttpKubeClient`, with TLS, token refresh and exec plugins as the
library has them. The administrator's kubeconfig is trusted; a child's is not and goes to `capn.kube.child`. Must not:
keep credentials in files longer than it takes to load them.
"""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml

from capn.errors import InvalidSpecError
from capn.kube.http import HttpKubeClient, Observer
from capn.kube.transport import Transport, build_session

_CONNECTIONS = 512  # watches and the requests of all workers at once
_READ_BYTES = 2 * 1024 * 1024
_TOKEN_FILE_S = 60.0  # the kubelet rotates a mounted token long before it expires
# The library remembers its temporary files in a module global, so one load at a time.
_loading = asyncio.Lock()


async def connect_kubeconfig(
    source: Path | bytes, *, context: str | None = None, timeout_s: float = 30.0, on_request: Observer | None = None
) -> HttpKubeClient:
    """A client for a kubeconfig file or its content. InvalidSpecError names the file and what is wrong with it."""
    origin = str(source) if isinstance(source, Path) else "the kubeconfig"
    config, base = _read(source, origin)
    async with _loading:
        with tempfile.TemporaryDirectory(prefix="capn-") as private:
            try:
                configuration = await _load(config, base, context, private)
                transport = _build_transport(configuration)
            except Exception as error:  # the library raises whatever it stumbles on
                raise InvalidSpecError("--kubeconfig", f"cannot use {origin}: {error}") from error
            finally:
                _forget_files()
    return HttpKubeClient(transport, timeout_s=timeout_s, on_request=on_request)


async def connect_in_cluster(*, timeout_s: float = 30.0, on_request: Observer | None = None) -> HttpKubeClient:
    """A client for the cluster that this pod runs in, by its service account (token re-read as it rotates)."""
    from kubernetes_asyncio import client, config  # noqa: PLC0415 - takes seconds to import

    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise InvalidSpecError("--kubeconfig", f"not given, and not in a pod: {error}") from error
    return HttpKubeClient(_build_transport(configuration), timeout_s=timeout_s, on_request=on_request)


def _read(source: Path | bytes, origin: str) -> tuple[dict[str, Any], str | None]:
    """The kubeconfig, and the directory that its relative paths start from."""
    try:
        config = yaml.safe_load(source.read_bytes() if isinstance(source, Path) else source)
    except (OSError, yaml.YAMLError) as error:
        raise InvalidSpecError("--kubeconfig", f"cannot read {origin}: {error}") from error
    if not isinstance(config, dict) or not config.get("clusters"):
        raise InvalidSpecError("--kubeconfig", f"{origin} holds no kubeconfig (no `clusters`)")
    return config, (str(source.absolute().parent) if isinstance(source, Path) else None)


async def _load(config: dict[str, Any], base: str | None, context: str | None, private: str) -> Any:  # noqa: ANN401
    from kubernetes_asyncio import client  # noqa: PLC0415 - takes seconds to import
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader  # noqa: PLC0415

    configuration = client.Configuration()
    loader = KubeConfigLoader(
        config_dict=config,
        config_base_path=base,
        active_context=context,
        temp_file_path=private,
    )
    await loader.load_and_set(configuration)
    configuration.refresh_api_key_hook = _refresher(loader)
    return configuration


def _refresher(loader: Any) -> Any:  # noqa: ANN401 - the library has no types
    """A hook that keeps the bearer token fresh: exec plugins as they say, token files every minute."""
    user = loader._user.value if loader._user else {}  # noqa: SLF001 - no public way to know the method
    if "exec" in user and hasattr(loader, "exec_plugin_expiry"):

        async def refresh_exec(configuration: Any) -> None:  # noqa: ANN401
            await loader.load_from_exec_plugin()  # does nothing until the expiry is near
            configuration.api_key["BearerToken"] = loader.token

        return refresh_exec
    if "tokenFile" in user:
        due = asyncio.get_running_loop().time() + _TOKEN_FILE_S

        def refresh_file(configuration: Any) -> None:  # noqa: ANN401
            nonlocal due
            now = asyncio.get_running_loop().time()
            if now >= due:
                due = now + _TOKEN_FILE_S
                loader._load_user_token()  # noqa: SLF001 - reads the file again
                configuration.api_key["BearerToken"] = loader.token

        return refresh_file
    return None


def _build_transport(configuration: Any) -> Transport:  # noqa: ANN401
    from kubernetes_asyncio.client.rest import RESTClientObject  # noqa: PLC0415

    configuration.connection_pool_maxsize = _CONNECTIONS
    rest = RESTClientObject(configuration)
    proxy = rest.proxy or _find_proxy(configuration.host)
    given = {"proxy": proxy, "proxy_headers": rest.proxy_headers, "server_hostname": rest.server_hostname}

    async def authorize() -> dict[str, str]:
        settings = configuration.auth_settings()
        if inspect.isawaitable(settings):
            settings = await settings
        return {auth["key"]: auth["value"] for auth in settings.values() if auth["in"] == "header" and auth["value"]}

    return Transport(
        base_url=configuration.host.rstrip("/"),
        session=_build_session(rest.pool_manager),
        authorize=authorize,
        request_args={name: value for name, value in given.items() if value},
    )


def _build_session(theirs: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """The library's connections in a session of our own.

    Its own asks one thread for ~/.netrc and another for the environment's proxy before every single request.
    """
    session = build_session(theirs.connector, read_bytes=_READ_BYTES)
    theirs.detach()
    return session


def _find_proxy(server: str) -> str | None:
    """The environment's proxy for this server, looked up once."""
    url = urlsplit(server)
    if url.hostname is None or proxy_bypass(url.hostname):
        return None
    return getproxies().get(url.scheme)


def _forget_files() -> None:
    from kubernetes_asyncio.config import kube_config  # noqa: PLC0415

    # Else a second load would be given the name of a file that is gone.
    kube_config._cleanup_temp_files()  # noqa: SLF001
