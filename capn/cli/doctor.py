"""`capn doctor`: can this machine run what is asked of it, and if not, what to do.

Role: a list of checks, each with its finding and the fix. Inputs: the settings. Must not: change anything, or hide a
failing check behind an earlier one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from capn.cli.doctor_kubevirt import examine_kubevirt
from capn.cli.findings import Finding
from capn.cli.read import choose_kubeconfig, format_table, write_data
from capn.dev.accel import probe_both
from capn.errors import CapnError, TerminalError
from capn.kube.connect import connect_kubeconfig
from capn.parts.host import find_missing, list_packages
from capn.providers.connect import connect_by_secret
from capn.settings import Endpoint, KubeVirtEndpoint, LibvirtEndpoint, cache_dir, load_settings

_GIB = 1 << 30
_PYTHON = (3, 11)
_NEEDED_MEMORY_GIB = 6  # parent 1, control plane 2.5, worker 2, some air
_NEEDED_DISK_GIB = 12  # parts 1, build caches 5, image 2, machines 4

_FIXES = {"acceleration": "install qemu-system-x86 and build a node image (`capn image build`)"}


def show_report(settings_file: Path | None, kubeconfig: Path | None, *, probe: bool, output: str) -> None:
    """Print the findings; TerminalError (exit code 1) when one is not well."""
    settings = load_settings(settings_file)
    # Without settings of the administrator there is no endpoint that one could blame.
    named = settings.endpoints if settings_file is not None else {}
    findings = asyncio.run(_examine_all(named, kubeconfig, probe=probe))
    rows = [("ok" if found.ok else "FAIL", found.check, found.found, found.fix) for found in findings]
    write_data([asdict(found) for found in findings], output, lambda: format_table(("", "CHECK", "FOUND", "FIX"), rows))
    if failed := [found.check for found in findings if not found.ok]:
        raise TerminalError(f"not well: {', '.join(failed)}", reason="DoctorFailed")


async def _examine_all(
    endpoints: Mapping[str, Mapping[str, Endpoint]], kubeconfig: Path | None, *, probe: bool
) -> list[Finding]:
    findings = await _examine(endpoints.get("libvirt", {}), probe=probe)
    for name, endpoint in endpoints.get("kubevirt", {}).items():
        if isinstance(endpoint, KubeVirtEndpoint):
            findings += await _examine_cluster(name, endpoint, kubeconfig)
    return findings


async def _examine_cluster(name: str, endpoint: KubeVirtEndpoint, kubeconfig: Path | None) -> list[Finding]:
    title = f"kubevirt endpoint {name}"
    try:
        path = choose_kubeconfig(kubeconfig)
    except CapnError as error:
        fix = "name the kubeconfig of the cluster that the controller watches"
        return [Finding(title, ok=False, found=str(error), fix=fix)]
    try:
        client = own = await connect_kubeconfig(path)
        try:
            if endpoint.kubeconfig is not None:
                client = await connect_by_secret(own, endpoint.kubeconfig)
            return await examine_kubevirt(name, endpoint, client)
        finally:
            await own.close()
            await client.close()
    except CapnError as error:
        return [Finding(title, ok=False, found=str(error), fix="as the message says")]


async def _examine(endpoints: Mapping[str, Endpoint], *, probe: bool) -> list[Finding]:
    checks: list[tuple[str, Callable[[], Awaitable[Finding]]]] = [
        ("python", _check_python),
        ("apt packages", _check_packages),
        ("go", _check_go),
        ("memory", _check_memory),
        ("disk", _check_disk),
    ]
    if probe:
        checks.append(("acceleration", _check_acceleration))
    for name, endpoint in endpoints.items():
        if isinstance(endpoint, LibvirtEndpoint):
            hosts = {f"{name}/{domain}": host for domain, host in endpoint.domains.items()} or {name: endpoint}
            checks += [(f"libvirt endpoint {title}", _endpoint_check(title, host)) for title, host in hosts.items()]
    findings = []
    for name, check in checks:
        try:
            findings.append(await check())
        except CapnError as error:
            findings.append(Finding(name, ok=False, found=str(error), fix=_FIXES.get(name, "")))
    return findings


async def _check_python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", ok=sys.version_info >= _PYTHON, found=found)


async def _check_packages() -> Finding:
    missing = await asyncio.to_thread(find_missing, list_packages())
    fix = f"apt-get install --no-install-recommends {' '.join(missing)}" if missing else ""
    found = f"missing: {', '.join(missing)}" if missing else "all installed"
    return Finding("apt packages", ok=not missing, found=found, fix=fix)


async def _check_go() -> Finding:
    found = shutil.which("go")
    fix = "" if found else "install Go 1.26 or newer, or set CAPN_DOWNLOAD_URL"
    return Finding("go", ok=found is not None or "CAPN_DOWNLOAD_URL" in os.environ, found=found or "not there", fix=fix)


async def _check_memory() -> Finding:
    available = read_available_memory() / _GIB
    fix = "" if available >= _NEEDED_MEMORY_GIB else "free some memory, or make spec.machine.memory smaller"
    found = f"{available:.1f} GiB available; the demo needs {_NEEDED_MEMORY_GIB}"
    return Finding("memory", ok=not fix, found=found, fix=fix)


def read_available_memory() -> int:
    """MemAvailable in bytes (proc_meminfo(5)); 0 when the kernel does not tell."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


async def _check_disk() -> Finding:
    place = cache_dir()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free / _GIB
    fix = "" if free >= _NEEDED_DISK_GIB else f"free space below {existing}, or point CAPN_CACHE elsewhere"
    return Finding("disk", ok=not fix, found=f"{free:.0f} GiB free for {place}; {_NEEDED_DISK_GIB} needed", fix=fix)


async def _check_acceleration() -> Finding:
    results = await probe_both()
    chosen = next(result for result in results if result.works)
    return Finding("acceleration", ok=True, found=f"{'; '.join(map(str, results))} -> {chosen.accel}")


def _endpoint_check(name: str, endpoint: LibvirtEndpoint) -> Callable[[], Awaitable[Finding]]:
    async def check() -> Finding:
        title = f"libvirt endpoint {name}"
        virsh = shutil.which("virsh")
        if virsh is None:
            return Finding(title, ok=False, found="virsh is not installed", fix="install libvirt-clients")
        process = await asyncio.create_subprocess_exec(
            virsh, "--connect", endpoint.uri, "version",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode == 0:
            hypervisor = [line for line in out.decode(errors="replace").splitlines() if "hypervisor" in line]
            return Finding(title, ok=True, found=f"{endpoint.uri}: {(hypervisor or ['answers'])[0]}")
        said = err.decode(errors="replace").strip().splitlines()
        fix = "start libvirtd there, or correct the endpoint's uri; `capn dev up` brings a private one"
        return Finding(title, ok=False, found=f"{endpoint.uri}: {said[-1] if said else 'no answer'}", fix=fix)

    return check
