"""What the end-to-end stories run in: the real controller, a provider's machines, and looks at them from outside."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from capn import names
from capn.dev.accel import choose_accel
from capn.dev.evidence import describe_object
from capn.dev.hypervisor import Hypervisor
from capn.image.catalogue import ImageCatalogue
from capn.settings import cache_dir
from tests.conftest import REPO, Kubectl, run_async
from tests.harness.controller_process import ControllerProcess

IMAGE_PREFIX = "capn-node-"
# Each look starts kubectl a few times, on the CPUs that the emulated machines need.
LOOK_EVERY_S = 3.0

BOOT_LIMIT_S = 900.0


def build_marks(variable: str, command: str, *, boots: int) -> list[pytest.MarkDecorator]:
    """Marks of a story that is told only when `variable` is set, which `command` does, and may take so many boots."""
    told = pytest.mark.skipif(
        variable not in os.environ, reason=f"{variable} is not set: the whole story is `{command}`"
    )
    return [told, pytest.mark.usefixtures("in_order"), pytest.mark.e2e, pytest.mark.timeout(boots * BOOT_LIMIT_S)]


def build_cluster(namespace: str, name: str, **spec: object) -> dict[str, Any]:
    """The manifest of a NestedCluster."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NestedCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


@dataclass
class Story:
    """Everything that the tests of a story share, whoever makes the machines."""

    kubectl: Kubectl
    controller: ControllerProcess
    namespace: str
    directory: Path

    def machines_evidence(self) -> list[str]:
        """What the hypervisor has, for a failure."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Progress, for who runs pytest with -s or reads a failure."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201

    def objects(self, kinds: str = "nestedclusters,nestedmachines") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.kubectl.json("get", kinds, "-n", self.namespace)["items"]
        return found

    def cluster(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.json("get", "nestedcluster", name, "-n", self.namespace)
        return found

    def is_ready(self, name: str) -> bool:
        """Whether a cluster is Ready as its newest spec wants it."""
        found = self.cluster(name)
        newest = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        return bool(newest and condition(found, "Ready")["status"] == "True")

    def machine(self, name: str) -> dict[str, Any] | None:
        return next((item for item in self.objects("nestedmachines") if item["metadata"]["name"] == name), None)

    def wait_for(self, what: str, check: Callable[[], object], *, limit_s: float) -> None:
        """Wait for a condition; on the way tell of every change of stage, at the end of all that there is to know.

        A look that fails is no answer: an API server in an emulated machine is at times too busy for one.
        """
        deadline, told, started = time.monotonic() + limit_s, "", time.monotonic()
        trouble = ""
        while True:
            try:
                if check():
                    break
                trouble = ""
            except (AssertionError, subprocess.TimeoutExpired) as error:
                trouble = f"the last look failed: {error}\n"
            stages = self.stages()
            if stages != told:
                self.say(f"+{time.monotonic() - started:.0f} s {stages}")
                told = stages
            assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}\n{trouble}{self.evidence()}"
            time.sleep(LOOK_EVERY_S)
        self.say(f"{what}: after {time.monotonic() - started:.0f} s")

    def stages(self) -> str:
        parts = []
        for item in self.objects():
            status = item.get("status", {})
            stage = status.get("bootstrap", {}).get("stage", "")
            parts.append(f"{item['metadata']['name']}={status.get('phase', '-')}{'/' + stage if stage else ''}")
        return " ".join(parts)

    def evidence(self) -> str:
        lines = [line for item in self.objects() for line in describe_object(item)]
        lines += [*self.machines_evidence(), "--- the end of the controller's log"]
        return "\n".join([*lines, self.controller.tail(60)])

    def plan(self, wanted: Mapping[str, Any]) -> str:
        """What `capn plan` says of a manifest, as the parent's administrator."""
        file = self.directory / "wanted.yaml"
        file.write_text(json.dumps(wanted))
        argv = [sys.executable, "-m", "capn", "plan", "-f", str(file), f"--kubeconfig={self.kubectl.kubeconfig}"]
        said = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=120, check=False).stdout
        self.say(said)
        return said

    def child(self, name: str) -> Kubectl:
        """kubectl for a child, with the kubeconfig that capn made."""
        secret = self.kubectl.json("get", "secret", f"{name}-kubeconfig", "-n", self.namespace)
        path = self.directory / f"{name}.kubeconfig"
        path.write_bytes(base64.b64decode(secret["data"]["value"]))
        path.chmod(0o600)
        return Kubectl(self.kubectl.binary, path)


@dataclass
class Lab(Story):
    """A story on a private libvirt."""

    hypervisor: Hypervisor

    def machines_evidence(self) -> list[str]:
        """Every domain with its state."""
        return ["--- domains", self.virsh("list", "--all")]

    def virsh(self, *args: str) -> str:
        """Ask the hypervisor as its administrator."""
        argv = ["virsh", "--quiet", "--connect", self.hypervisor.uri, *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"virsh {' '.join(args)}: {done.stderr}"
        return done.stdout

    def domains(self) -> set[str]:
        return set(self.virsh("list", "--all", "--name").split())

    def domain_of(self, machine: str) -> str:
        """The domain of a machine."""
        [found] = [name for name in self.domains() if f"-{machine}-" in name]
        return found

    def destroy(self, machine: str) -> None:
        """Take a machine's VM away behind capn's back: without its definition it does not outlive its end."""
        domain = self.domain_of(machine)
        # The other way round capn starts it again in between.
        self.virsh("undefine", domain)
        self.virsh("destroy", domain)
        self.say(f"the VM of {machine} and its definition were destroyed")

    def is_empty(self) -> bool:
        """Whether no machine, no disk of one and no network of a cluster is left."""
        return not (self.domains() or self.volumes() or self.networks() - {"default"})

    def volumes(self) -> set[str]:
        """Volumes that belong to machines; those of node images stay for the next cluster."""
        if "capn" not in self.virsh("pool-list", "--all", "--name").split():
            return set()
        lines = self.virsh("vol-list", "capn").splitlines()
        return {line.split()[0] for line in lines if line.strip() and not line.strip().startswith(IMAGE_PREFIX)}

    def networks(self) -> set[str]:
        return set(self.virsh("net-list", "--all", "--name").split())


@contextlib.contextmanager
def running_lab(  # noqa: PLR0913 - what stories differ in
    directory: Path,
    account: Path,
    kubectl: Kubectl,
    *,
    namespace: str,
    versions: Sequence[str],
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Lab]:
    """A private hypervisor and a controller that watches one namespace; nothing of them is left at the end."""
    require_images(versions)
    hypervisor = Hypervisor(directory / "hv")
    hypervisor.start()
    accel = run_async(lambda: choose_accel("auto", print))
    endpoint = hypervisor.endpoint(accel=accel, unsafe_disk_cache=True).model_dump(mode="json")
    controller = build_controller(directory, account, namespace, endpoint, settings)
    kubectl("create", "namespace", namespace)
    controller.start()
    try:
        yield Lab(kubectl, controller, namespace, directory, hypervisor)
    finally:
        controller.stop()
        hypervisor.stop()
        left = hypervisor.leaks()
        hypervisor.purge()
        assert not left, f"left on the host: {left}"
        assert not hypervisor.state.exists()


def require_images(versions: Sequence[str]) -> None:
    """Fail when a node image has not been built."""
    catalogue = ImageCatalogue(cache_dir() / "images" / "node")
    for version in versions:
        assert catalogue.find(version) is not None, f"no node image for {version}: `make image VERSION={version}`"


def build_controller(
    directory: Path,
    account: Path,
    namespace: str,
    endpoint: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> ControllerProcess:
    """A controller, not yet started, that watches one namespace and has that libvirt endpoint."""
    base = {"endpoints": {"libvirt": {"default": endpoint}}, "namespace": namespace, "log_format": "json"}
    return ControllerProcess(directory / "controller", account, {**base, **(settings or {})})


@dataclass
class KubeVirtLab(Story):
    """A story on KubeVirt, in the node of an embedded parent."""

    def machines_evidence(self) -> list[str]:
        """VMs, their pods, and the end of each console."""
        shown = self.kubectl.run("get", "vm,vmi,pods,services", "-n", self.namespace, "-o", "wide").stdout
        pods = self.kubectl.run("get", "pods", "-n", self.namespace, "-o", "name").stdout.split()
        consoles = [
            line
            for pod in pods
            for line in (
                f"--- console of {pod}",
                self.kubectl.run("logs", pod, "-c", "guest-console-log", "-n", self.namespace, "--tail=15").stdout,
            )
        ]
        return ["--- KubeVirt", shown, *consoles]

    def left(self) -> list[str]:
        """Everything that the provider may leave in the namespace."""
        kinds = "vm,vmi,pods,services,secrets,nestedclusters,nestedmachines"
        return self.kubectl("get", kinds, "-n", self.namespace, "-o", "name").split()


def condition(obj: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """A condition, or one that says Unknown."""
    found = [entry for entry in (obj or {}).get("status", {}).get("conditions", []) if entry["type"] == kind]
    return found[0] if found else {"type": kind, "status": "Unknown", "reason": "", "message": ""}
