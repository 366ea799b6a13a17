"""What a child serves while its cluster is changed, and the clients that use it all the while.

A web server in pods behind a Service with a node port, with a disruption budget; one client calls the child's API, the
other fetches the page. Each call is a new connection.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from capn.dev.child import TOOLBOX_IMAGE
from tests.conftest import Kubectl
from tests.e2e.lab import Story, condition
from tests.harness.steady_client import Count, SteadyClient, get

APP = "web"
NODE_PORT = 30080
_PORT = 8080
_PAGE = b"served"
_LIMIT_S = 900.0
# A new connection by TLS each time, which costs an emulated control plane a tenth of a CPU when it is made each second.
_CALL_EVERY_S = 3.0


def call_api(child: Kubectl) -> SteadyClient:
    """A client of a child's API, not yet running."""
    tls, host, port = read_access(child)
    return SteadyClient(
        "api", lambda: discard(get(host, port, "/api/v1/namespaces/default", tls=tls)), interval_s=_CALL_EVERY_S
    )


def report(lab: Story, api: SteadyClient, what: str) -> Count:
    """Say what the API's client met during `what`, and begin to count anew."""
    count = api.take()
    lab.say(f"{what}: the child's API: {count}")
    return count


@dataclass
class Served:
    """`address`: the node whose port the page's client uses; a story moves it when that node is to go."""

    lab: Story
    cluster: str
    address: str
    api: SteadyClient
    page: SteadyClient

    def report(self, what: str) -> tuple[Count, Count]:
        """Say what the clients met during `what`, and begin to count anew."""
        api, page = report(self.lab, self.api, what), self.page.take()
        self.lab.say(f"{what}: its page: {page}")
        return api, page


@contextlib.contextmanager
def serving(lab: Story, cluster: str, *, node: str, replicas: int = 1, spread: str | None = None) -> Iterator[Served]:
    """Deploy, wait until the page is there, and let the clients run. `spread`: a label of nodes, to have pods apart."""
    child = lab.child(cluster)
    web = build_web(replicas, spread)
    lab.wait_for("the child takes the web server", lambda: child.apply(*web), limit_s=_LIMIT_S)
    page = SteadyClient("page", lambda: fetch_page(served.address))
    served = Served(lab, cluster, node_address(lab, node), call_api(child), page)
    lab.wait_for("the page is served", lambda: _answers(served), limit_s=_LIMIT_S)
    with served.api, served.page:
        yield served


def node_address(lab: Story, machine: str) -> str:
    """A machine's own address."""
    found = lab.machine(machine)
    assert found is not None, machine
    [address] = [entry["address"] for entry in found["status"]["addresses"] if entry["type"] == "InternalIP"]
    return str(address)


def web_pods(child: Kubectl) -> dict[str, dict[str, Any]]:
    """The web server's pods that are Ready, by UID."""
    pods = child.json("get", "pods", "-l", f"app={APP}")["items"]
    return {pod["metadata"]["uid"]: pod for pod in pods if condition(pod, "Ready")["status"] == "True"}


def read_access(child: Kubectl) -> tuple[ssl.SSLContext, str, int]:
    """TLS with the administrator's certificate, and the endpoint, of a child's kubeconfig."""
    config = yaml.safe_load(child.kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)
    pair = child.kubeconfig.with_suffix(".pem")
    pair.write_bytes(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
    pair.chmod(0o600)
    tls.load_cert_chain(pair)
    server = urlsplit(cluster["server"])
    assert server.hostname is not None
    return tls, server.hostname, server.port or 443


def build_web(replicas: int, spread: str | None) -> list[dict[str, Any]]:
    """Deployment, Service and budget; the image is in every node image."""
    apart = {"maxSkew": 1, "topologyKey": spread, "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": "Honor"}
    labels = {"app": APP}
    meta = {"name": APP, "namespace": "default"}
    serve = f"echo {_PAGE.decode()} >/www/index.html; exec httpd -f -p {_PORT} -h /www"
    container = {
        "name": APP,
        "image": TOOLBOX_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", serve],
        "ports": [{"containerPort": _PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": _PORT}, "periodSeconds": 5, "timeoutSeconds": 10},
        # Until every node has heard that the pod is none of the Service's any more.
        "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
    }
    pod: dict[str, Any] = {"containers": [container]}
    if spread is not None:
        pod["topologySpreadConstraints"] = [{**apart, "labelSelector": {"matchLabels": labels}}]
    template = {"metadata": {"labels": labels}, "spec": pod}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {
                "type": "NodePort",
                "selector": labels,
                "ports": [{"port": 80, "targetPort": _PORT, "nodePort": NODE_PORT}],
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta,
            "spec": {"minAvailable": max(replicas - 1, 1), "selector": {"matchLabels": labels}},
        },
    ]


def fetch_page(address: str) -> None:
    """Get the page from that node's port by a new connection. OSError when something else comes."""
    page = get(address, NODE_PORT, "/")
    if page.strip() != _PAGE:
        raise OSError(f"another page: {page[:40]!r}")


def _answers(served: Served) -> bool:
    try:
        fetch_page(served.address)
    except OSError:
        return False
    return True


def discard(_: bytes) -> None:
    """What an answer says is no matter here."""
