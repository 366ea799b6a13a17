from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from capn.build.flannel import FLANNEL_IMAGE, build_flannel
from capn.errors import NotFoundError
from capn.image.images import TOOLBOX_IMAGE, build_contents, build_images, find_sandbox
from capn.image.oci import LayerEntry, OciImage, write_layer
from capn.parts.catalogue import RELEASES, list_parts
from tests.unit.build.samples import make_flannel_input

NAMES = tuple(
    f"registry.test/{name}"
    for name in (
        "kube-apiserver:v1",
        "kube-controller-manager:v1",
        "kube-scheduler:v1",
        "kube-proxy:v1",
        "coredns/coredns:v1",
        "pause:3",
        "etcd:3.7.0-0",
    )
)


@pytest.fixture(params=[release.version for release in RELEASES])
def images(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, OciImage]:
    parts = {part.name: tmp_path / part.name for part in list_parts(request.param)}
    for path in parts.values():
        path.write_text(path.name)
    network = write_layer([LayerEntry("usr/sbin/xtables-nft-multi", source=parts["runc"])], tmp_path / "network.tar")
    built = build_images(NAMES, parts=parts, network=network, busybox=parts["runc"], work=tmp_path)
    return {image.name: image for image in built}


def read_files(image: OciImage) -> dict[str, str]:
    """The last layer's files, links resolved to what they name."""
    found = {}
    for layer in image.layers:
        with tarfile.open(layer.path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                found[f"/{member.name}"] = file.read().decode() if file else f"-> {member.linkname}"
    return found


def test_every_image_that_kubeadm_names_is_there_and_ours_too(images: dict[str, OciImage]) -> None:
    assert list(images) == [*NAMES, FLANNEL_IMAGE, TOOLBOX_IMAGE]


def test_programs_are_where_kubeadm_manifests_call_them(images: dict[str, OciImage]) -> None:
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        assert read_files(images[f"registry.test/{name}:v1"])[f"/usr/local/bin/{name}"] == name
    etcd = read_files(images["registry.test/etcd:3.7.0-0"])
    assert (etcd["/usr/local/bin/etcd"], etcd["/usr/local/bin/etcdctl"]) == ("etcd", "etcdctl")
    # What a snapshot is read by; there is no shell.
    assert sorted(path for path in etcd if path.startswith("/bin")) == [
        "/bin",
        "/bin/busybox",
        "/bin/cat",
        "/bin/rm",
        "/bin/test",
        "/bin/touch",
    ]
    # CoreDNS and pause are started by their entry points.
    for name, path in (("coredns/coredns:v1", "/coredns"), ("pause:3", "/pause")):
        image = images[f"registry.test/{name}"]
        assert image.entrypoint == (path,)
        assert read_files(image)[path] == path.strip("/")


def test_only_those_that_call_network_tools_have_them(images: dict[str, OciImage]) -> None:
    with_tools = {name for name, image in images.items() if "/usr/sbin/xtables-nft-multi" in read_files(image)}
    assert with_tools == {"registry.test/kube-proxy:v1", FLANNEL_IMAGE}
    files = read_files(images["registry.test/kube-proxy:v1"])
    assert files["/usr/sbin/iptables-restore"] == "-> xtables-nft-multi"


def test_flannel_manifests_find_their_programs(images: dict[str, OciImage]) -> None:
    daemon_set = next(item for item in build_flannel(make_flannel_input()) if item["kind"] == "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    files = read_files(images[FLANNEL_IMAGE])
    for container in pod["containers"]:
        assert container["image"] == FLANNEL_IMAGE
        assert container["command"][0] in files
    sources = [word for c in pod["initContainers"] for word in c["command"] if word.startswith("/opt/cni/bin/flannel")]
    assert sources == ["/opt/cni/bin/flannel"]
    assert files[sources[0]] == "flannel"
    assert files["/usr/bin/cp"] == "-> busybox"


def test_the_toolbox_has_what_a_demo_needs(images: dict[str, OciImage]) -> None:
    files = read_files(images[TOOLBOX_IMAGE])
    assert {f"/bin/{name}" for name in ("sh", "nslookup", "wget", "httpd", "sleep")} <= set(files)
    assert {files[path] for path in files if path.startswith("/bin/") and path != "/bin/busybox"} == {"-> busybox"}


def test_an_image_that_the_recipe_does_not_know_is_an_error() -> None:
    with pytest.raises(NotFoundError, match=r"kubeadm wants the image registry\.test/kube-oracle:v1"):
        build_contents("registry.test/kube-oracle:v1")


def test_the_sandbox_is_the_pause_image() -> None:
    assert find_sandbox(NAMES) == "registry.test/pause:3"
    with pytest.raises(NotFoundError, match="lists no pause image"):
        find_sandbox(NAMES[:2])
