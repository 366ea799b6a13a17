"""`make demo-clean`: takes an environment down to the last file, and looks whether anything is left.

Role: deletes the clusters through the API first (that is part of what the demo shows), then stops everything, then
looks. Inputs: a `DevState`, at any half state. Must not: stop at the first failure, or call a leak clean.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from capn.dev import processes
from capn.dev.environment import CONTROLLER, Environment
from capn.dev.node_parent import stop_both
from capn.dev.parent_flags import PROGRAMS
from capn.dev.progress import Progress
from capn.dev.state import DevState
from capn.errors import CapnError, TerminalError
from capn.parts.process import run
from capn.parts.source import Report

_DELETE_LIMIT_S = 300
# Volumes of node images stay after their clusters, for the next one; they go with the hypervisor.
IMAGE_PREFIX = "capn-node-"


async def clean(state: DevState, progress: Progress) -> None:
    """Remove the environment. TerminalError names what is left; running it again is fine."""
    environment, left = Environment(state), list[str]()
    if state.directory.exists():
        with progress.step("Deleting child clusters through the API") as report:
            if await _delete_clusters(environment, report):
                left += await _find_machines(environment)
        with progress.step("Stopping controller, hypervisor, node and parent"):
            await processes.stop(state.controller, CONTROLLER, grace_s=30.0)
            await asyncio.to_thread(environment.hypervisor().stop)
            await stop_both(environment.node(), environment.parent())
    with progress.step("Looking for leftovers") as report:
        left += await find_leftovers(environment)
        environment.remove_files()
        if state.directory.exists():
            left.append(f"directory {state.directory}")
        if left:
            raise TerminalError(f"left behind: {', '.join(left)}", reason="Leaked")
        report("no domain, volume, network, process, mount or file is left")


async def _delete_clusters(environment: Environment, report: Report) -> bool:
    """Whether all were deleted through the API. Failing is not fatal: the hypervisor takes its machines with it."""
    if len(environment.parent().running()) != len(PROGRAMS):
        report("the parent does not run; what is left goes with the hypervisor")
        return False
    try:
        kubectl = environment.kubectl
        names = (await kubectl.run("get", "nestedclusters", "-A", "-o", "name")).split()
        if not names:
            report("there are none")
            return False
        if not processes.find(environment.state.controller, CONTROLLER):
            await environment.start_controller(report)
        limit = f"--timeout={_DELETE_LIMIT_S}s"
        said = await kubectl.run(
            "delete", "nestedclusters", "--all", "-A", "--wait=true", limit, limit_s=_DELETE_LIMIT_S + 30.0
        )
        for line in said.splitlines():
            report(line)
    except CapnError as error:
        report(f"could not: {error}")
        return False
    return True


async def _find_machines(environment: Environment) -> list[str]:
    """What the controller left in the hypervisor although it said that everything was deleted."""
    left = []
    if environment.has_kubevirt:
        found = await environment.kubectl.run("get", "virtualmachines,virtualmachineinstances", "-A", "-o", "name")
        left += [f"KubeVirt's {name}" for name in found.split()]
    hypervisor = environment.hypervisor()
    if not hypervisor.running():
        return left
    for what, *query in (("domain", "list", "--all", "--name"), ("network", "net-list", "--all", "--name")):
        finished = await run(["virsh", "--quiet", "--connect", hypervisor.uri, *query])
        left += [f"{what} {name}" for line in finished.tail if (name := line.strip())]
    listed = await run(["virsh", "--quiet", "--connect", hypervisor.uri, "vol-list", "capn"])
    names = [line.split()[0] for line in listed.tail if line.strip() and listed.status == 0]
    return left + [f"volume {name}" for name in names if not name.startswith(IMAGE_PREFIX)]


async def find_leftovers(environment: Environment) -> list[str]:
    """Processes, mounts, bridges and rules that are still there although everything was stopped."""
    directory = environment.state.directory
    left = [f"process {record.pid} ({record.name})" for record in processes.find_owned(directory)]
    left += await asyncio.to_thread(environment.hypervisor().leaks)
    left += await asyncio.to_thread(environment.node().leaks)
    left += [f"process {pid}" for pid in _mentioning(directory)]
    return sorted(set(left))


def _mentioning(directory: Path) -> list[int]:
    """Processes of the hypervisor's kind whose command line names the directory (they do not carry our mark)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        program = Path(arguments[0].decode(errors="replace")).name
        if program.startswith(("qemu", "dnsmasq", "libvirtd", "virtlogd")) and any(
            str(directory).encode() in argument for argument in arguments
        ):
            found.append(int(entry.name))
    return found
