"""Finds the provider of an infrastructure reference.

Role: one provider an endpoint of the administrator's settings, made when first asked for. Must not: import libvirt
before a libvirt endpoint is used (it is an optional package), or make endpoints that the settings do not name.
"""

from __future__ import annotations

from capn.api.machine_template import Infrastructure
from capn.errors import InvalidSpecError, TerminalError
from capn.providers.base import Provider
from capn.providers.images import ImageSource, NoImages
from capn.providers.memory import MemoryProvider
from capn.settings import Endpoint, LibvirtEndpoint, Settings

_FIELD = "spec.infrastructure.endpoint"


class ProviderRegistry:
    """The providers in use. `images` is where a libvirt endpoint finds node images that it has to upload."""

    def __init__(self, settings: Settings, images: ImageSource | None = None) -> None:
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
        if endpoint is None or endpoint.kind != kind:
            offered = ", ".join(sorted(known)) or "none"
            raise InvalidSpecError(
                _FIELD,
                f"there is no {kind} endpoint {name}; the administrator defined: {offered}",
                reason="EndpointNotFound",
            )
        return endpoint

    def _build(self, endpoint: Endpoint) -> Provider:
        if not isinstance(endpoint, LibvirtEndpoint):
            return MemoryProvider(endpoint)
        try:
            from capn.providers.libvirt.provider import LibvirtProvider  # noqa: PLC0415 - an optional package
        except ImportError as error:
            raise TerminalError(
                "the controller lacks Python's libvirt package: install capn-operator[libvirt]",
                reason="LibvirtMissing",
            ) from error
        return LibvirtProvider(endpoint, self._images)
