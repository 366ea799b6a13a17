"""A cluster's API endpoint: the Service in front of its control planes.

Role: make it by the endpoint's settings, read what address it has by what it is: settings change, and certificates keep
what a cluster was made with. Inputs: a client, a place, settings; output: `ObservedCluster`. Must not: touch a Service
that does not carry the cluster's UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import IPv4Network
from typing import Any

from capn import names
from capn.api.resources import SERVICE, SERVICE_CIDR
from capn.build.kubeadm import API_PORT
from capn.build.kubevirt_objects import Exposure, build_api_service
from capn.errors import ApiStatusError, InvalidSpecError, PendingError
from capn.kube.client import KubeClient
from capn.providers.adopt import create_or_adopt
from capn.providers.base import ClusterRef, ClusterRequest, ObservedCluster
from capn.providers.checks import check_cidrs
from capn.providers.kubevirt.place import Place
from capn.providers.stamps import build_cluster_stamp, is_owned, refuse_foreign
from capn.settings import KubeVirtEndpoint


async def find_service(client: KubeClient, place: Place, ref: ClusterRef) -> dict[str, Any] | None:
    """The cluster's Service; None when there is none or when it is not ours."""
    service = await client.get(SERVICE, place.api_service(ref), place.of(ref))
    return service if service is not None and is_owned(service, ref.uid) else None


async def ensure_service(
    client: KubeClient, place: Place, endpoint: KubeVirtEndpoint, request: ClusterRequest
) -> dict[str, Any]:
    """The cluster's Service, made where it is missing: at the address that an earlier one had, if there was one."""
    ref = request.ref
    found = await client.get(SERVICE, place.api_service(ref), place.of(ref))
    if found is None:
        check_cidrs(request, await list_used_networks(client, endpoint))
        fixed = request.endpoint_host if endpoint.service_type == "ClusterIP" and not endpoint.endpoint_host else None
        service = build_api_service(
            place.of(ref),
            place.api_service(ref),
            build_cluster_stamp(ref),
            Exposure(endpoint.service_type, host=endpoint.endpoint_host, cluster_ip=fixed),
        )
        found = await create_or_adopt(client, SERVICE, service, ref.uid)
    refuse_foreign(found, ref.uid, kind="Service")
    return found


async def list_used_networks(client: KubeClient, endpoint: KubeVirtEndpoint) -> list[tuple[str, IPv4Network]]:
    """What the child's networks must not overlap: as the administrator said, and the Services of the cluster itself."""
    used = [("reserved by the administrator", network) for network in endpoint.reserved_cidrs]
    try:
        listed = await client.list(SERVICE_CIDR)
    except ApiStatusError as error:
        if error.code not in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            raise
        return used  # an older API server, or less RBAC than asked for: what the settings say must do
    cidrs = [cidr for item in listed.items for cidr in item["spec"].get("cidrs") or () if ":" not in cidr]
    return used + [("the Services of the cluster that runs the VMs", IPv4Network(cidr)) for cidr in cidrs]


def compute_endpoint(service: Mapping[str, Any], endpoint: KubeVirtEndpoint) -> ObservedCluster:
    """Where the API answers.

    PendingError (WaitingForLoadBalancer) while nobody has given the Service an address; InvalidSpecError
    (EndpointHostUnknown) when it needs a host and nothing says which.
    """
    host = _read_host(service, endpoint) or _own_address(service)
    port = service["spec"]["ports"][0]["nodePort"] if _made_as(service) == "NodePort" else API_PORT
    return ObservedCluster(endpoint_host=host, endpoint_port=int(port), machine_cidr=None)


def _made_as(service: Mapping[str, Any]) -> str:
    return str(service["spec"].get("type") or "ClusterIP")


def _read_host(service: Mapping[str, Any], endpoint: KubeVirtEndpoint) -> str | None:
    """The host that the Service was made with; None: its own address."""
    recorded = (service["metadata"].get("annotations") or {}).get(names.ANNOTATION_ENDPOINT_HOST)
    if recorded is not None:
        return str(recorded) or None
    # Made before hosts were recorded: the settings hold if they can be those that it was made by.
    return endpoint.endpoint_host if endpoint.service_type == _made_as(service) else None


def _own_address(service: Mapping[str, Any]) -> str:
    meta, made_as = service["metadata"], _made_as(service)
    if made_as == "LoadBalancer":
        return _load_balancer_address(service)
    if made_as == "NodePort":
        raise InvalidSpecError(
            "endpoint_host",
            f"Service {meta['namespace']}/{meta['name']} is a NodePort and nothing says any more by which host it is"
            f" reached: kubectl annotate service -n {meta['namespace']} {meta['name']}"
            f" {names.ANNOTATION_ENDPOINT_HOST}=HOST",
            reason="EndpointHostUnknown",
        )
    return str(service["spec"]["clusterIP"])


def _load_balancer_address(service: Mapping[str, Any]) -> str:
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    given = [entry.get("ip") or entry.get("hostname") for entry in ingress]
    if not any(given):
        meta = service["metadata"]
        raise PendingError(
            f"Service {meta['namespace']}/{meta['name']} has no address yet: a load balancer controller must give it"
            " one; without one, set the endpoint's service_type to ClusterIP and delete this Service",
            reason="WaitingForLoadBalancer",
        )
    return str(next(address for address in given if address))
