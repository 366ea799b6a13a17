"""The environment's proxy is found once, and no request asks for it (or for ~/.netrc) again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from capn.kube.connect import connect_kubeconfig

SERVER = "https://203.0.113.7:6443"
KUBECONFIG = yaml.safe_dump(
    {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": SERVER}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


async def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    client = await connect_kubeconfig(KUBECONFIG.encode())
    assert client._transport.request_args["proxy"] == "http://127.0.0.1:3128"
    await client.close()


async def test_no_proxy_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "203.0.113.7")
    client = await connect_kubeconfig(KUBECONFIG.encode())
    assert "proxy" not in client._transport.request_args
    await client.close()


async def test_requests_do_not_ask_the_environment() -> None:
    client = await connect_kubeconfig(KUBECONFIG.encode())
    assert client._transport.session.trust_env is False
    await client.close()
    assert client._transport.session.closed
