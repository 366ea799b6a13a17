"""Finds the provider of an infrastructure reference.

Role: one provider an endpoint of the administrator's settings, made when first asked for. Inputs: settings, a source of
node images, the controller's own client (for machines in the same cluster). Must not: import libvirt
before a libvirt endpoint is used (it is an optional package), or make endpoints that the settings do not name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from capn.api.machine_template import Infrastructure
from capn.errors import InvalidSpecError, TerminalError
from capn.kube.http import Observer
from capn.providers.base import Provider
from capn.providers.connect import connect_by_secret
from capn.providers.failure_domains import DomainProvider
from capn.providers.images import ImageSource, NoImages
from capn.providers.kubevirt.console import KubeVirtClient
from capn.providers.kubevirt.provider import KubeVirtProvider
from capn.providers.memory import MemoryProvider, utc_now
from capn.providers.memory_world import MemoryWorld
from capn.providers.parent.provider import ParentProvider
from capn.settings import Endpoint, KubeVirtEndpoint, LibvirtEndpoint, MemoryEndpoint, ParentEndpoint, Settings

_FIELD = "spec.infrastructure.endpoint"
_HostT = TypeVar("_HostT", LibvirtEndpoint, KubeVirtEndpoint, MemoryEndpoint)


class ProviderRegistry:
    """The providers in use. `images` is where a libvirt endpoint finds node images that it has to upload.

    `client` is the controller's own, for KubeVirt; without one such an endpoint cannot be used.
    """

    def __init__(
        self, settings: Settings, images: ImageSource | None = None, client: KubeVirtClient | None = None
    ) -> None:
        self._client = client
        self._endpoints = settings.endpoints
        self._images = images or NoImages()
        self._providers: dict[tuple[str, str], Provider] = {}

    def get(self, infrastructure: Infrastructure) -> Provider:
        """The provider; InvalidSpecError (EndpointNotFound) names the endpoints that there are."""
        kind, name = infrastructure.kind.value, infrastructure.endpoint
        provider = self._providers.get((kind, name))
        if provider is None:
            provider = self._build(self._find(kind, name))
            self._providers[kind, name] = provider
        return provider

    async def close(self) -> None:
        """Close every provider that was made."""
        providers = list(self._providers.values())
        self._providers.clear()
        for provider in providers:
            await provider.close()

    def _find(self, kind: str, name: str) -> Endpoint:
        known = self._endpoints.get(kind, {})
        endpoint = known.get(name)
        # In a child the names of its parent's endpoints stand for claims, so that a manifest works in both.
        if endpoint is None or endpoint.kind not in {kind, "parent"}:
            offered = ", ".join(sorted(known)) or "none"
            raise InvalidSpecError(
                _FIELD,
                f"there is no {kind} endpoint {name}; the administrator defined: {offered}",
                reason="EndpointNotFound",
            )
        return endpoint

    def _build(self, endpoint: Endpoint) -> Provider:
        match endpoint:
            case MemoryEndpoint():
                return build_memory(endpoint)
            case KubeVirtEndpoint():
                return _build_each(_list_kubevirt(endpoint), lambda _name, host: self._build_kubevirt(host))
            case ParentEndpoint():
                return self._build_parent(endpoint)
            case LibvirtEndpoint():
                hosts = endpoint.domains or {"": endpoint}
                return _build_each(hosts, lambda _name, host: self._build_libvirt(host))

    def _build_kubevirt(self, endpoint: KubeVirtEndpoint) -> Provider:
        own, key = self._client, endpoint.kubeconfig
        if own is None:
            raise TerminalError("a kubevirt endpoint needs the controller's connection to a cluster")

        async def connect(on_request: Observer) -> KubeVirtClient:
            return own if key is None else await connect_by_secret(own, key, on_request=on_request)

        return KubeVirtProvider(endpoint, connect, owns_client=key is not None)

    def _build_parent(self, endpoint: ParentEndpoint) -> Provider:
        own = self._client
        if own is None:
            raise TerminalError("a parent endpoint needs the controller's connection to its own cluster")
        return ParentProvider(endpoint, lambda told: connect_by_secret(own, endpoint.kubeconfig, on_request=told))

    def _build_libvirt(self, endpoint: LibvirtEndpoint) -> Provider:
        try:
            from capn.providers.libvirt.provider import LibvirtProvider  # noqa: PLC0415 - an optional package
        except ImportError as error:
            raise TerminalError(
                "the controller lacks Python's libvirt package: install capn-operator[libvirt]",
                reason="LibvirtMissing",
            ) from error
        return LibvirtProvider(endpoint, self._images)


def build_memory(endpoint: MemoryEndpoint, world: MemoryWorld | None = None) -> DomainProvider:
    """Simulated hosts, which share a network and so a world."""
    shared = world or MemoryWorld(utc_now)
    hosts = endpoint.domains or {"": endpoint}
    return _build_each(hosts, lambda name, host: MemoryProvider(host, world=shared, host=name))


def _build_each(hosts: Mapping[str, _HostT], build: Callable[[str, _HostT], Provider]) -> DomainProvider:
    return DomainProvider({name: build(name, host) for name, host in hosts.items()})


def _list_kubevirt(endpoint: KubeVirtEndpoint) -> dict[str, KubeVirtEndpoint]:
    """The endpoint's domains as endpoints: one cluster, and hosts by one more selector."""
    whole = endpoint.model_copy(update={"domains": {}})
    return {
        name: whole.model_copy(update={"node_selector": endpoint.node_selector | domain.node_selector})
        for name, domain in endpoint.domains.items()
    } or {"": whole}
