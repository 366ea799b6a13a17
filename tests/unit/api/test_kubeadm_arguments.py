"""Arguments that no configuration of kubeadm's may be made of are refused by the model, which is the only way there."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from capn.api.kubeadm_arguments import KubeadmArguments


@pytest.mark.parametrize("name", ["", "-v", "--v", "a b", "a=b", "a\nb"])
@pytest.mark.parametrize("component", ["apiServer", "controllerManager", "scheduler", "etcd"])
def test_a_bad_argument_name_is_refused(component: str, name: str) -> None:
    with pytest.raises(ValidationError, match="write argument names in lower case") as caught:
        KubeadmArguments.model_validate({component: {"extraArgs": {name: "x"}}})
    assert caught.value.errors()[0]["loc"] == (component, "extraArgs")


@pytest.mark.parametrize("component", ["apiServer", "controllerManager", "scheduler", "etcd"])
def test_a_line_break_in_a_value_is_refused(component: str) -> None:
    with pytest.raises(ValidationError, match="cannot hold control characters") as caught:
        KubeadmArguments.model_validate({component: {"extraArgs": {"x": "a\nb: c"}}})
    assert caught.value.errors()[0]["loc"] == (component, "extraArgs", "x")
