"""A child cluster as its user sees it: kubeconfig, nodes, a pod, a DNS lookup.

Role: proves that a child works, with kubectl and the kubeconfig that capn made. Must not: be used by the controller.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from capn import names
from capn.api.conditions import find_condition
from capn.api.resources import SECRET
from capn.dev.kubectl import Kubectl
from capn.dev.waiting import wait_until
from capn.errors import NotFoundError, TerminalError
from capn.kube.client import KubeClient
from capn.parts.source import Report

TOOLBOX_IMAGE = "capn.dev/toolbox:1"
POD_NAME = "capn-demo"
# In full: busybox's nslookup does not try the search domains.
_LOOKUP = "kubernetes.default.svc.cluster.local"
_NODES_LIMIT_S = 600.0
_POD_LIMIT_S = 600.0
_DNS_LIMIT_S = 600.0


async def read_child_kubeconfig(client: KubeClient, *, namespace: str, cluster: str) -> bytes:
    """The child administrator's kubeconfig. NotFoundError says what to look at when it is not there (yet)."""
    secret = await client.get(SECRET, names.secret_kubeconfig(cluster), namespace)
    encoded = (secret or {}).get("data", {}).get("value")
    if not encoded:
        raise NotFoundError(f"no kubeconfig for {namespace}/{cluster}; look at `capn tree -n {namespace}`")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        name = names.secret_kubeconfig(cluster)
        raise TerminalError(f"Secret {namespace}/{name}: key value is not base64: {error}") from error


async def check_nodes(kubectl: Kubectl, *, expected: int, report: Report) -> list[str]:
    """Wait until the child has `expected` nodes, all Ready; a line for each."""
    nodes: list[dict[str, Any]] = []

    async def missing() -> str | None:
        try:
            nodes[:] = (await kubectl.json("get", "nodes"))["items"]
        except TerminalError as error:  # a child under software emulation is slow to answer while its pods start
            return str(error)
        waiting = [node["metadata"]["name"] for node in nodes if not _node_ready(node)]
        if waiting:
            return f"{', '.join(waiting)} not Ready"
        return None if len(nodes) >= expected else f"{len(nodes)} of {expected} nodes"

    await wait_until("nodes of the child", missing, limit_s=_NODES_LIMIT_S)
    lines = [
        f"{node['metadata']['name']} Ready, kubelet {node['status']['nodeInfo']['kubeletVersion']}" for node in nodes
    ]
    for line in lines:
        report(line)
    return lines


def _node_ready(node: dict[str, Any]) -> bool:
    ready = find_condition(node, "Ready")
    return ready is not None and ready.get("status") == "True"


def build_pod(image: str = TOOLBOX_IMAGE) -> dict[str, Any]:
    """A pod that sleeps; its image is in the node image, so nothing is pulled."""
    container = {
        "name": "toolbox",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1; done"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD_NAME, "namespace": "default"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


async def check_pod(kubectl: Kubectl, *, report: Report) -> str:
    """Run the pod and wait until it is Ready; the name of its node. It stays, for whoever wants to look around."""

    async def not_accepted() -> str | None:
        try:
            await kubectl.run("get", "serviceaccount", "default")
            await kubectl.apply(build_pod())
        except TerminalError as error:
            return str(error)
        return None

    await wait_until("the API server accepts a pod", not_accepted, limit_s=_POD_LIMIT_S)
    limit = f"--timeout={_POD_LIMIT_S:.0f}s"
    try:
        await kubectl.run("wait", "--for=condition=Ready", f"pod/{POD_NAME}", limit, limit_s=_POD_LIMIT_S + 30)
    except TerminalError as error:
        events = await kubectl.run("describe", "pod", POD_NAME)
        raise TerminalError(f"{error}\n{events[-2000:]}", reason="PodNotReady") from error
    pod = await kubectl.json("get", "pod", POD_NAME)
    report(f"pod {POD_NAME} runs on {pod['spec']['nodeName']} with address {pod['status'].get('podIP', '?')}")
    return str(pod["spec"]["nodeName"])


async def check_dns(kubectl: Kubectl, *, report: Report) -> str:
    """Look up a Service from inside the pod, by the child's CoreDNS; the address that it answered."""
    said = ""

    async def unanswered() -> str | None:
        nonlocal said
        try:
            said = await kubectl.run("exec", POD_NAME, "--", "nslookup", _LOOKUP, limit_s=60.0)
        except TerminalError as error:
            return str(error)
        return None

    await wait_until(f"a DNS answer for {_LOOKUP} in the pod", unanswered, limit_s=_DNS_LIMIT_S)
    address = parse_lookup(said)
    report(f"{_LOOKUP} is {address}, says CoreDNS")
    return address


def parse_lookup(said: str) -> str:
    """The address in nslookup's answer (the last one; the first is the name server's own)."""
    found = [line.partition(":")[2].split()[-1] for line in said.splitlines() if line.startswith("Address")]
    if len(found) < 2:  # noqa: PLR2004 - server and answer
        raise TerminalError(f"nslookup gave no address: {said.strip()[:500]}", reason="LookupFailed")
    return found[-1]
