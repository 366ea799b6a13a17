from __future__ import annotations

import re

import pytest

from capn.errors import InvalidSpecError
from capn.parts.catalogue import (
    CONTROL_PLANE_NAMES,
    DEFAULT_VERSION,
    RELEASES,
    Part,
    find_release,
    list_parts,
    select_parts,
)
from capn.parts.hack import hack_dir

ALL = [part for release in RELEASES for part in list_parts(release.version)]


@pytest.mark.parametrize("part", ALL, ids=lambda part: f"{part.name}-{part.version}")
def test_versions_are_those_of_the_pinned_modules(part: Part) -> None:
    module = hack_dir() / part.module
    if part.name == "pause":
        assert "module capn.dev/hack/pause" in (module / "go.mod").read_text()
        return
    required = dict(re.findall(r"^(?:require )?\t?(\S+) (v\S+)", (module / "go.mod").read_text(), re.MULTILINE))
    owner = max((path for path in required if f"{part.package}/".startswith(f"{path}/")), key=len)
    assert required[owner] == part.version
    assert f'_ "{part.package}"' in (module / "tools.go").read_text()
    assert (module / "go.sum").is_file()


def test_staging_modules_follow_the_release() -> None:
    for release in RELEASES:
        text = (hack_dir() / release.module / "go.mod").read_text()
        staged = set(re.findall(r"^\tk8s\.io/\S+ => k8s\.io/\S+ (\S+)$", text, re.MULTILINE))
        assert staged == {release.version.replace("v1.", "v0.")}


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


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSpecError, match=r"parts: unknown: kubelt; use some of: .*kubelet"):
        select_parts(["kubelt"])
    with pytest.raises(InvalidSpecError, match=r"v1\.2\.3; use one of: v1\.37\.2"):
        find_release("v1.2.3")
