"""Which kube-proxy each node has while there are two versions, and that it ends as kubeadm's."""

from __future__ import annotations

from typing import Any

import pytest

from capn import names
from capn.build.kube_proxy import ProxyStep, build_extra, compute_proxy_step, is_rolled_out, read_tag

OLD, NEW, NEWER = "v1.36.3", "v1.37.2", "v1.37.3"
KEY = names.LABEL_VERSION


def proxy(version: str = OLD, *, name: str = "kube-proxy", affinity: Any = None, status: Any = None) -> dict[str, Any]:
    container = {"name": "kube-proxy", "image": f"r.test/kube-proxy:{version}", "command": ["kube-proxy"], "env": []}
    pod: dict[str, Any] = {"containers": [{"name": "other", "image": "x"}, container], "nodeSelector": {"os": "linux"}}
    if affinity is not None:
        pod["affinity"] = affinity
    return {
        "metadata": {"name": name, "uid": "u", "resourceVersion": "7", "generation": 2},
        "spec": {"template": {"metadata": {"labels": {}}, "spec": pod}},
        "status": status or {},
    }


def guarded(*versions: str, **more: Any) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": KEY, "operator": "NotIn", "values": list(versions)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}, **more}


def step(main: Any, *extras: Any, planes: tuple[str, ...], workers: tuple[str, ...] = (), to: str = NEW) -> ProxyStep:
    return compute_proxy_step(main, extras, planes=planes, workers=workers, version=to)


ROLLED = {
    "observedGeneration": 2,
    "desiredNumberScheduled": 3,
    "updatedNumberScheduled": 3,
    "numberAvailable": 3,
}


def test_before_the_first_new_node_there_is_one_for_it_and_kubeadms_keeps_off() -> None:
    found = step(proxy(), planes=(OLD,), workers=(OLD,))
    [made] = found.create
    assert made["metadata"]["name"] == f"kube-proxy-{NEW}"
    pod = made["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"os": "linux", KEY: NEW}
    assert pod["containers"][0] == {"name": "other", "image": "x"}
    assert pod["containers"][1]["image"] == f"r.test/kube-proxy:{NEW}"
    assert made["spec"]["selector"]["matchLabels"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert found.patch == {
        "metadata": {"uid": "u", "resourceVersion": "7"},
        "spec": {
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
            "template": {"spec": {"affinity": guarded(NEW)}},
        },
    }
    assert found.delete == ()


def test_its_own_api_server_is_asked_while_there_are_older_ones() -> None:
    [made] = step(proxy(), planes=(OLD, NEW)).create
    container = made["spec"]["template"]["spec"]["containers"][1]
    assert container["command"] == ["kube-proxy", "--master=https://$(CAPN_HOST_IP):6443"]
    assert container["env"][-1]["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    later = step(proxy(affinity=guarded(NEW)), made, planes=(NEW, NEW), workers=(OLD,))
    assert later.create[0]["spec"]["template"]["spec"]["containers"][1]["command"] == ["kube-proxy"]
    assert (later.patch, later.delete) == (None, ())
    assert step(proxy(affinity=guarded(NEW)), later.create[0], planes=(NEW,), workers=(OLD,)) == ProxyStep()


def test_a_newer_patch_in_the_middle_makes_a_third() -> None:
    second = build_extra(proxy(), NEW, local=True)
    found = step(proxy(affinity=guarded(NEW)), second, planes=(OLD, NEW), to=NEWER)
    assert [made["metadata"]["name"] for made in found.create] == [f"kube-proxy-{NEWER}"]
    assert found.patch is not None
    assert found.patch["spec"]["template"]["spec"]["affinity"] == guarded(NEW, NEWER)
    without = step(proxy(affinity=guarded(NEW, NEWER)), second, found.create[0], planes=(OLD, NEWER), to=NEWER)
    assert without.delete == (f"kube-proxy-{NEW}",)


def test_kubeadms_takes_over_and_then_the_other_goes() -> None:
    extra = build_extra(proxy(), NEW, local=False)
    first = step(proxy(affinity=guarded(NEW)), extra, planes=(NEW,), workers=(NEW,))
    assert first.patch is not None
    assert first.delete == ()
    assert first.waits
    changed = first.patch["spec"]["template"]["spec"]
    assert changed["affinity"] is None
    assert [one["image"] for one in changed["containers"]] == ["x", f"r.test/kube-proxy:{NEW}"]
    assert first.patch["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    waiting = step(proxy(NEW, status=ROLLED | {"numberAvailable": 2}), extra, planes=(NEW,))
    assert (waiting.patch, waiting.delete, bool(waiting.waits)) == (None, (), True)
    assert step(proxy(NEW, status=ROLLED), extra, planes=(NEW,)) == ProxyStep(delete=(f"kube-proxy-{NEW}",))
    assert step(proxy(NEW), planes=(NEW,)) == ProxyStep()


def test_taken_back_leaves_no_trace() -> None:
    found = step(proxy(affinity=guarded(NEW)), build_extra(proxy(), NEW, local=True), planes=(OLD,), to=OLD)
    assert found.patch is not None
    assert found.patch["spec"]["template"]["spec"]["affinity"] is None


def test_the_users_own_affinity_stays() -> None:
    mine = {"key": "disk", "operator": "In", "values": ["ssd"]}
    term = {"matchExpressions": [mine], "matchFields": [{"key": "metadata.name"}]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = {"nodeAffinity": {**preferred, required: {"nodeSelectorTerms": [term]}}, "podAffinity": {"a": 1}}
    found = step(proxy(affinity=affinity), planes=(OLD,))
    assert found.patch is not None
    changed = found.patch["spec"]["template"]["spec"]["affinity"]
    ours = {"key": KEY, "operator": "NotIn", "values": [NEW]}
    assert changed["nodeAffinity"][required]["nodeSelectorTerms"] == [term | {"matchExpressions": [mine, ours]}]
    back = step(proxy(affinity=changed), planes=(OLD,), to=OLD)
    assert back.patch is not None
    assert back.patch["spec"]["template"]["spec"]["affinity"] == affinity
    only = step(proxy(affinity=guarded(NEW, podAffinity={"a": 1})), planes=(OLD,), to=OLD)
    assert only.patch is not None
    assert only.patch["spec"]["template"]["spec"]["affinity"] == {"podAffinity": {"a": 1}, "nodeAffinity": None}
    lone = step(proxy(affinity={"nodeAffinity": {**preferred, **guarded(NEW)["nodeAffinity"]}}), planes=(OLD,), to=OLD)
    assert lone.patch is not None
    assert lone.patch["spec"]["template"]["spec"]["affinity"]["nodeAffinity"] == {**preferred, required: None}


@pytest.mark.parametrize("main", [None, proxy("latest"), {"spec": {"template": {"spec": {"containers": []}}}}])
def test_one_that_is_not_kubeadms_is_left_alone(main: Any) -> None:
    assert step(main, planes=(OLD,)) == ProxyStep()
    extra = build_extra(proxy(), NEW, local=True)
    assert step(main, extra, planes=(OLD,)) == ProxyStep(delete=(f"kube-proxy-{NEW}",))


def test_what_rolled_out_means() -> None:
    assert read_tag(proxy()) == OLD
    assert is_rolled_out(proxy(status=ROLLED))
    assert not is_rolled_out(proxy(status=ROLLED | {"observedGeneration": 1}))
    assert not is_rolled_out(proxy())
