from __future__ import annotations

import re

import pytest

from capn.errors import InvalidSpecError
from capn.parts.catalogue import (
    CONTROL_PLANE_NAMES,
    DEFAULT_VERSION,
    KUBEVIRT_MODULE,
    KUBEVIRT_VERSION,
    RELEASES,
    CPart,
    Part,
    find_release,
    list_kubevirt_parts,
    list_parts,
    select_parts,
)
from capn.parts.hack import hack_dir

ALL = [*(part for release in RELEASES for part in list_parts(release.version)), *list_kubevirt_parts()]


@pytest.mark.parametrize("part", ALL, ids=lambda part: f"{part.name}-{part.version}")
def test_versions_are_those_of_the_pinned_modules(part: Part) -> None:
    module = hack_dir() / part.module
    if part.name == "pause":
        assert "module capn.dev/hack/pause" in (module / "go.mod").read_text()
        return
    required = dict(re.findall(r"^(?:require )?\t?(\S+) (v\S+)", (module / "go.mod").read_text(), re.MULTILINE))
    owner = max((path for path in required if f"{part.package}/".startswith(f"{path}/")), key=len)
    assert required[owner] == part.version
    if isinstance(part, CPart):
        assert part.source.endswith(".c")
        return
    assert f'_ "{part.package}"' in (module / "tools.go").read_text()
    assert (module / "go.sum").is_file()


def test_staging_modules_follow_the_release() -> None:
    for release in RELEASES:
        text = (hack_dir() / release.module / "go.mod").read_text()
        staged = set(re.findall(r"^\tk8s\.io/\S+ => k8s\.io/\S+ (\S+)$", text, re.MULTILINE))
        assert staged == {release.version.replace("v1.", "v0.")}


def test_two_minors_that_follow_each_other_can_be_built_and_the_newer_one_is_the_default() -> None:
    minors = [int(release.version.split(".")[1]) for release in RELEASES]
    assert minors == [37, 36]
    assert find_release(DEFAULT_VERSION) is RELEASES[0]
    older = {part.name: part for part in list_parts("v1.36.3")}
    assert (older["etcd"].version, older["etcdctl"].version, older["coredns"].version) == (
        "v3.6.8",
        "v3.6.8",
        "v1.14.2",
    )
    assert "-X=k8s.io/component-base/version.gitMinor=36" in older["kubeadm"].ldflags
    assert older.keys() == {part.name for part in list_parts()}


def test_programs_know_their_version() -> None:
    kubeadm = select_parts(["kubeadm"])[0]
    assert f"-X=k8s.io/component-base/version.gitVersion={DEFAULT_VERSION}" in kubeadm.ldflags
    assert "-X=k8s.io/component-base/version.gitMinor=37" in kubeadm.ldflags
    assert not [flag for part in ALL for flag in part.ldflags if " " in flag]  # go splits them at blanks


def test_the_control_plane_comes_first_and_names_are_unique() -> None:
    names = [part.name for part in list_parts()]
    assert tuple(names[: len(CONTROL_PLANE_NAMES)]) == CONTROL_PLANE_NAMES
    assert len(set(names)) == len(names)


def test_select_keeps_the_order_asked_for_and_none_means_all() -> None:
    assert [part.name for part in select_parts(["runc", "etcd"])] == ["runc", "etcd"]
    assert select_parts([]) == list_parts()


def test_kubevirt_is_built_when_it_is_named_and_not_otherwise() -> None:
    names = {part.name for part in list_kubevirt_parts()}
    assert not names & {part.name for part in list_parts()}
    assert [part.version for part in select_parts(["virtctl"])] == [KUBEVIRT_VERSION]
    assert {part.module for part in list_kubevirt_parts()} == {"parts/kubevirt"}


def test_kubevirts_own_replacements_are_kept() -> None:
    """A module that requires KubeVirt does not get the replacements of its go.mod, and its staging ones are paths."""
    text = (hack_dir() / "parts/kubevirt/go.mod").read_text()
    for staged in ("kubevirt.io/api", "kubevirt.io/client-go"):
        assert f"\t{staged} => {staged} {KUBEVIRT_VERSION}\n" in text
    assert f"require {KUBEVIRT_MODULE} {KUBEVIRT_VERSION}\n" in text
    replaced = re.findall(r"^\tk8s\.io/(\S+) => k8s\.io/\1 v0\.33\.5$", text, re.MULTILINE)
    assert {"api", "apimachinery", "client-go"} <= set(replaced)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSpecError, match=r"parts: unknown: kubelt; use some of: .*kubelet"):
        select_parts(["kubelt"])
    with pytest.raises(InvalidSpecError, match=r"v1\.2\.3; use one of: v1\.37\.2"):
        find_release("v1.2.3")
