"""capn's own image as a node's containerd would unpack it, started by chroot."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from capn.image import oci, own
from capn.image.rootfs import remove_path
from capn.parts.download import host_architecture
from capn.settings import OWN_IMAGE, cache_dir
from tests.conftest import run_async

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


async def build(work: Path) -> oci.OciImage:
    return await own.build_own_image(
        architecture=host_architecture(), cache=cache_dir(), work=work, mirror=None, report=print
    )


@pytest.fixture(scope="module")
def image() -> Iterator[tuple[oci.OciImage, Path]]:
    """The image, and a directory with its layers unpacked."""
    work = Path(tempfile.mkdtemp(prefix="capn-own-"))
    try:
        made = run_async(lambda: build(work))
        root = work / "root"
        root.mkdir()
        for layer in made.layers:
            with tarfile.open(layer.path) as archive:
                archive.extractall(root)  # noqa: S202 - made a moment ago
        work.chmod(0o755)
        yield made, root
    finally:
        remove_path(work)


def run_in(image: tuple[oci.OciImage, Path], *words: str) -> subprocess.CompletedProcess[str]:
    """A program in the image, as the image's user and with nothing of our environment."""
    made, root = image
    argv = ["/usr/sbin/chroot", f"--userspec={made.user}", str(root), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={"HOME": "/tmp"}, timeout=120)  # noqa: S108


def test_its_entry_point_is_capn(image: tuple[oci.OciImage, Path]) -> None:
    made, _root = image
    assert made.name == OWN_IMAGE
    done = run_in(image, *made.entrypoint, "version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("capn ")


def test_what_the_deployment_starts_gets_as_far_as_its_settings(image: tuple[oci.OciImage, Path]) -> None:
    made, _root = image
    done = run_in(image, *made.entrypoint, "run", "--settings=/etc/capn/settings/settings.yaml")
    assert done.returncode != 0
    assert "--settings: cannot read /etc/capn/settings/settings.yaml" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import capn.controllers.setup, capn.providers.registry, capn.kube.connect, kubernetes_asyncio.client",
        "from capn.bundle import load_controller; assert any(o['kind'] == 'Deployment' for o in load_controller())",
        "import ssl; assert ssl.create_default_context().get_ca_certs() is not None",
    ],
)
def test_what_a_controller_needs_is_there(image: tuple[oci.OciImage, Path], code: str) -> None:
    done = run_in(image, "/usr/bin/python3", "-P", "-c", code)
    assert done.returncode == 0, done.stderr


def test_no_bindings_of_libvirt_and_everything_compiled(image: tuple[oci.OciImage, Path]) -> None:
    _made, root = image
    packages = root / "usr/lib/python3/dist-packages"
    assert not list(packages.glob("libvirt*"))
    modules = list((packages / "capn").rglob("*.py"))
    assert len(modules) > 100
    for module in modules:
        assert list((module.parent / "__pycache__").glob(f"{module.stem}.cpython-*.pyc")), module
