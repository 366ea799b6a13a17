"""The `capn` command: arguments in, exit code out.

Role: declares commands and options; each command's work is in a module of its own, imported only when it runs, so that
`capn --help` stays fast. Must not: hold behaviour.
"""

# ruff: noqa: PLC0415 - imported when a command runs: `--help` shall take less than 0.3 s

from __future__ import annotations

import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from capn import __version__
from capn.cli.exits import HELP, describe, exit_code, unwrap

app = typer.Typer(
    name="capn",
    help=f"Whole Kubernetes clusters inside a Kubernetes cluster.\n\n{HELP}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dev = typer.Typer(help="A parent cluster of your own on this machine: embedded control plane, hypervisor, controller.")
image = typer.Typer(help="Node images: what the machines boot from.")
parts = typer.Typer(help="Third-party programs, built from pinned sources into the cache.")
for name, group in (("dev", dev), ("image", image), ("parts", parts)):
    app.add_typer(group, name=name, no_args_is_help=True)


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class DataFormat(StrEnum):
    """Forms of what is data by nature."""

    JSON = "json"
    YAML = "yaml"


class Accel(StrEnum):
    """How machines run."""

    AUTO = "auto"
    KVM = "kvm"
    EMULATE = "emulate"


class DemoProvider(StrEnum):
    """Whose machines the demo shows."""

    LIBVIRT = "libvirt"
    KUBEVIRT = "kubevirt"


Kubeconfig = Annotated[
    Path | None,
    typer.Option(envvar="KUBECONFIG", help="The parent's kubeconfig.", show_default="~/.kube/config"),
]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace in the parent.")]
ClusterPath = Annotated[
    str,
    typer.Argument(metavar="CLUSTER", help="NestedCluster: a/b is b in a; team:a is a in namespace team."),
]
SettingsFile = Annotated[Path | None, typer.Option(help="The controller's settings (YAML).")]
Name = Annotated[str, typer.Option(help="Name of the environment; two names never collide.")]
AccelOption = Annotated[Accel, typer.Option(help="KVM, software emulation, or whichever a probe finds to work.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="Form of the output.")]
Version = Annotated[str, typer.Option(help="Kubernetes version.")]
DEFAULT_VERSION = "v1.37.2"


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command (`main` reads --debug itself, since it handles the errors)."""


@app.command()
def run(
    kubeconfig: Annotated[
        Path | None, typer.Option(envvar="KUBECONFIG", help="The parent's kubeconfig.", show_default="in-cluster")
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Run the controller until it is told to stop (SIGTERM, Ctrl-C)."""
    from capn.cli.run import run_controller

    run_controller(kubeconfig, settings)


@app.command()
def demo(
    name: Name = "demo",
    clean: Annotated[bool, typer.Option("--clean", help="Remove everything of the demo instead.")] = False,
    accel: AccelOption = Accel.AUTO,
    provider: Annotated[DemoProvider, typer.Option(help="Who runs the machines.")] = DemoProvider.LIBVIRT,
    recursive: Annotated[bool, typer.Option("--recursive", help="A cluster in the child, too (libvirt).")] = False,
) -> None:
    """From nothing to a child cluster that answers; `--clean` takes it all down."""
    from capn.cli.dev import clean_demo, show_demo

    if clean:
        clean_demo(name)
    else:
        show_demo(name, accel.value, provider.value, recursive=recursive)


@app.command()
def tree(kubeconfig: Kubeconfig = None, namespace: Namespace = None, output: Format = Output.TABLE) -> None:
    """Show the parent, its child clusters and their machines."""
    from capn.cli.read import show_tree

    show_tree(kubeconfig, namespace, output.value)


@app.command("kubeconfig")
def child_kubeconfig(
    cluster: ClusterPath,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of names without one.")] = "default",
    kubeconfig: Kubeconfig = None,
    write: Annotated[Path | None, typer.Option("--write", "-w", help="Write this file (0600), don't print.")] = None,
    output: Annotated[DataFormat, typer.Option("--output", "-o", help="Form.")] = DataFormat.YAML,
) -> None:
    """Print (or write) the kubeconfig of a cluster, however deep."""
    from capn.cli.children import show_kubeconfig

    show_kubeconfig(kubeconfig, namespace=namespace, cluster=cluster, write=write, output=output.value)


@app.command("exec", context_settings={"ignore_unknown_options": True})
def child_exec(
    cluster: ClusterPath,
    command: Annotated[list[str], typer.Argument(help="What to run, such as kubectl get nodes.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of names without one.")] = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run a command with KUBECONFIG set to a cluster, however deep: capn exec a/b -- kubectl get nodes."""
    from capn.cli.children import run_in_child

    raise typer.Exit(run_in_child(kubeconfig, namespace=namespace, cluster=cluster, command=command))


@app.command("explain")
def child_explain(
    cluster: ClusterPath,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of names without one.")] = "default",
    kubeconfig: Kubeconfig = None,
    output: Format = Output.TABLE,
) -> None:
    """Say why a cluster is not Ready: the first link that fails, the evidence and the fix."""
    from capn.cli.children import show_explanation

    show_explanation(kubeconfig, namespace=namespace, cluster=cluster, output=output.value)


@app.command()
def scale(
    cluster: ClusterPath,
    pool: Annotated[str, typer.Argument(help="Worker pool with autoscaling.")],
    replicas: Annotated[int, typer.Argument(min=0, max=1000, help="Machines that it shall have.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of names without one.")] = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Set the size of an autoscaled worker pool, without a change of the manifest: capn scale demo md 3."""
    from capn.cli.scale import scale as set_scale

    set_scale(kubeconfig, namespace=namespace, cluster=cluster, pool=pool, replicas=replicas)


@app.command()
def plan(
    file: Annotated[Path, typer.Option("--filename", "-f", help="Manifests; - reads standard input.")],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not look at the parent: all is new.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Show what an apply of NestedClusters would do; exit code 0: nothing, 5: something, 1: it is refused."""
    from capn.cli.plan import show_plan

    raise typer.Exit(show_plan(file, kubeconfig, namespace=namespace, offline=offline, output=output.value))


@app.command()
def dashboard(
    kubeconfig: Kubeconfig = None,
    bind: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it sees the tree.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8086,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks at the API.")] = 1.0,
) -> None:
    """Show the tree as a live page in the browser."""
    from capn.cli.dashboard import serve_dashboard

    serve_dashboard(kubeconfig, bind=bind, port=port, interval_s=interval)


@app.command()
def doctor(
    settings: SettingsFile = None,
    kubeconfig: Kubeconfig = None,
    probe: Annotated[bool, typer.Option(help="Boot something small with and without KVM (seconds).")] = True,
    output: Format = Output.TABLE,
) -> None:
    """Check this machine and the endpoints of the settings; exit code 1 when something is missing."""
    from capn.cli.doctor import show_report

    show_report(settings, kubeconfig, probe=probe, output=output.value)


@app.command()
def version(output: Format = Output.TABLE) -> None:
    """Print capn's version and the Kubernetes version that it makes by default."""
    from capn.cli.read import write_data

    data = {"capn": __version__, "kubernetes": DEFAULT_VERSION}
    write_data(data, output.value, lambda: [f"capn {__version__} (Kubernetes {DEFAULT_VERSION})"])


@dev.command("up")
def dev_up(
    name: Name = "demo",
    accel: AccelOption = Accel.AUTO,
    node: Annotated[bool, typer.Option("--node", help="Give the parent a node of its own: it runs pods.")] = False,
    kubevirt: Annotated[
        bool, typer.Option("--kubevirt", help="KubeVirt on that node: it runs virtual machines (emulated).")
    ] = False,
    nesting: Annotated[
        bool, typer.Option("--nesting", help="Let children have clusters of their own (spec.nesting).")
    ] = False,
) -> None:
    """Start parent, hypervisor and controller in the background."""
    from capn.cli.dev import bring_up

    bring_up(name, accel.value, node=node, kubevirt=kubevirt, nesting=nesting)


@dev.command("load")
def dev_load(
    archive: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An OCI or docker-save archive.")],
    name: Name = "demo",
) -> None:
    """Load container images into the parent's node (see `up --node`); pods can use them at once."""
    from capn.cli.dev import load_images

    load_images(name, archive)


@dev.command("down")
def dev_down(name: Name = "demo") -> None:
    """Stop them; the data stays for the next `up`."""
    from capn.cli.dev import bring_down

    bring_down(name)


@dev.command("status")
def dev_status(name: Name = "demo", output: Format = Output.TABLE) -> None:
    """Show what runs; exit code 3 when there is no such environment."""
    from capn.cli.dev import show_status

    show_status(name, output.value)


@image.command("build")
def image_build(version: Version = DEFAULT_VERSION) -> None:
    """Build the node image for a Kubernetes version into the cache; nothing happens when it is there."""
    from capn.cli.supplies import build_node_image

    build_node_image(version)


@image.command("list")
def image_list(output: Format = Output.TABLE) -> None:
    """List the node images in the cache."""
    from capn.cli.supplies import list_images

    list_images(output.value)


@image.command("push")
def image_push(
    version: Version = DEFAULT_VERSION,
    endpoint: Annotated[str, typer.Option(help="Name of a libvirt endpoint of the settings.")] = "default",
    settings: SettingsFile = None,
) -> None:
    """Upload a node image to an endpoint before the first machine needs it."""
    from capn.cli.supplies import push_image

    push_image(version, endpoint, settings)


@image.command("containerdisk")
def image_containerdisk(
    version: Version = DEFAULT_VERSION,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Copy the OCI archive to this file.")] = None,
    disk_gib: Annotated[
        int | None,
        typer.Option("--disk-gib", min=1, max=65536, help="Size of the disk; smaller for copies into volumes."),
    ] = None,
) -> None:
    """Pack the node image as a container image that KubeVirt boots, to be pushed to a registry of yours."""
    from capn.cli.supplies import build_containerdisk

    build_containerdisk(version, output, disk_gib=disk_gib)


@parts.command("build")
def parts_build(
    names: Annotated[list[str] | None, typer.Argument(help="Programs to build; all when none is named.")] = None,
    version: Version = DEFAULT_VERSION,
    kubevirt: Annotated[bool, typer.Option("--kubevirt", help="KubeVirt's programs and images instead.")] = False,
) -> None:
    """Make third-party programs that are missing in the cache (KubeVirt's only when asked for)."""
    from capn.cli.supplies import build_kubevirt_parts, build_parts

    if kubevirt:
        build_kubevirt_parts()
    if names or not kubevirt:
        build_parts(names or [], version)


@parts.command("list")
def parts_list(version: Version = DEFAULT_VERSION, output: Format = Output.TABLE) -> None:
    """List the programs and where they are."""
    from capn.cli.supplies import list_parts

    list_parts(version, output.value)


def main() -> None:
    """Entry point: run the command; an error becomes one line on stderr and a stable exit code."""
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last place: nobody else would tell
        if "--debug" in sys.argv[1:]:
            traceback.print_exception(unwrap(error))
        sys.stderr.write(f"{describe(error)}\n")
        sys.exit(exit_code(error))
