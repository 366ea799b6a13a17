"""Commands in pods through a real API server, kubelet and containerd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from capn.dev.node_parent import running_node
from capn.errors import ApiStatusError, NotFoundError, UnreachableError
from capn.image.images import TOOLBOX_IMAGE
from capn.kube.connect import connect_kubeconfig
from capn.kube.errors import CommandFailedError
from capn.kube.http import HttpKubeClient
from tests.conftest import Kubectl

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root"),
]
MIB = 1 << 20
POD: Mapping[str, Any] = {"pod": "box", "namespace": "default", "container": "box"}
BIG = "/www/big"


@pytest.fixture(scope="module")
def kubectl(binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """For a node with the pods `box` and `brief`."""
    entered = running_node(tmp_path_factory.mktemp("node") / "one", binaries, print)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        parent, _node = runner.run(entered.__aenter__())
        try:
            kubectl = Kubectl(binaries["kubectl"], parent.kubeconfig)
            for name in ("box", "brief"):
                container = {"name": name, "image": TOOLBOX_IMAGE}
                spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
                kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
            kubectl("wait", "--for=condition=Ready", "pod/box", "pod/brief", "--timeout=60s")
            yield kubectl
        finally:
            runner.run(entered.__aexit__(None, None, None))


@pytest.fixture
async def client(kubectl: Kubectl) -> AsyncIterator[HttpKubeClient]:
    connected = await connect_kubeconfig(kubectl.kubeconfig)
    yield connected
    await connected.close()


async def test_output_errors_and_exit_code(client: HttpKubeClient) -> None:
    result = await client.exec(**POD, command=["sh", "-c", "echo out; echo 'a  b' >&2; exit 7"])
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"a  b\n", 7)
    result = await client.exec(**POD, command=["printf", "%s|", "a b", "$HOME", ""])
    assert (result.stdout, result.exit_code) == (b"a b|$HOME||", 0)


async def test_input_reaches_the_command_and_ends(client: HttpKubeClient) -> None:
    data = os.urandom(MIB)
    result = await client.exec(**POD, command=["sha256sum"], stdin=data)
    assert result.stdout.split()[0].decode() == sha256(data).hexdigest()
    assert (await client.exec(**POD, command=["cat"], stdin=data, limit_bytes=MIB)).stdout == data
    assert (await client.exec(**POD, command=["wc", "-c"], stdin=b"")).stdout.strip() == b"0"


async def test_a_large_binary_output_comes_whole(client: HttpKubeClient) -> None:
    script = f"dd if=/dev/urandom of={BIG} bs=65536 count={5 * 16} 2>/dev/null; sha256sum {BIG}"
    said = await client.exec(**POD, command=["sh", "-c", script])
    digest, size = sha256(), 0
    async for piece in client.exec_stream(**POD, command=["cat", BIG]):
        digest.update(piece)
        size += len(piece)
    assert size == 5 * MIB
    assert digest.hexdigest() == said.stdout.split()[0].decode()
    with pytest.raises(ApiStatusError, match="longer than"):
        await client.exec(**POD, command=["cat", BIG])


async def test_a_stream_of_a_command_that_fails(client: HttpKubeClient) -> None:
    stream = client.exec_stream(**POD, command=["sh", "-c", "echo some; echo why >&2; exit 3"])
    assert await anext(stream) == b"some\n"
    with pytest.raises(CommandFailedError, match="exit code 3: why"):
        await anext(stream)


async def test_what_is_not_there(client: HttpKubeClient) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        await client.exec("absent", "default", container="box", command=["true"])
    with pytest.raises(ApiStatusError, match="container other is not valid for pod box") as caught:
        await client.exec("box", "default", container="other", command=["true"])
    assert caught.value.code == 400
    with pytest.raises(ApiStatusError, match="no-such-program"):
        await client.exec(**POD, command=["no-such-program"])


async def test_a_silent_command_ends_in_time(client: HttpKubeClient) -> None:
    with pytest.raises(UnreachableError, match="did not end within 1 s"):
        await client.exec(**POD, command=["sleep", "60"], timeout_s=1)


async def test_a_pod_that_ends_in_the_middle(client: HttpKubeClient, kubectl: Kubectl) -> None:
    script = "while true; do echo line; sleep 0.1; done"
    stream = client.exec_stream("brief", "default", container="brief", command=["sh", "-c", script])
    assert await anext(stream) == b"line\n"
    await asyncio.to_thread(kubectl, "delete", "pod", "brief", "--grace-period=0", "--force")
    with pytest.raises((CommandFailedError, UnreachableError)):
        async for _piece in stream:
            pass
