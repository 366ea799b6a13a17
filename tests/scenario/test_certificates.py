"""The kubeconfig is renewed before it ends, a user's CA is honoured, and a wrong clock breaks nothing."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from capn import names
from capn.api.resources import NAMESPACE, NESTED_CLUSTER, NODE, SECRET
from capn.build.kubeconfig import ServerAddress, build_kubeconfig, parse_kubeconfig
from capn.build.kubeconfig_renewal import compute_renewal
from capn.build.pki import KeyPair, generate_ca, generate_pki, issue_client
from tests.harness.scenario import NAMESPACE_NAME, Scenario

DAY = timedelta(days=1)
DUE = 250 * DAY  # past two thirds of a year


async def read_kubeconfig(scenario: Scenario) -> bytes:
    secret = await scenario.secret("c1-kubeconfig")
    assert secret is not None
    return base64.b64decode(secret["data"]["value"])


async def read_begin(scenario: Scenario) -> datetime:
    pem = parse_kubeconfig(await read_kubeconfig(scenario)).cert_pem
    return x509.load_pem_x509_certificate(pem).not_valid_before_utc


def count_secret_writes(scenario: Scenario) -> Counter[str]:
    """Writes of Secrets by verb."""
    reads = {"get", "list", "watch"}
    return Counter(
        {verb: n for (verb, what), n in scenario.api.requests.items() if what == "secrets" and verb not in reads}
    )


async def put_secret(scenario: Scenario, name: str, data: dict[str, bytes], kind: str = "Opaque") -> None:
    if await scenario.api.get(NAMESPACE, NAMESPACE_NAME) is None:
        await scenario.user.create(NAMESPACE, {"metadata": {"name": NAMESPACE_NAME}})
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    meta = {"name": name, "namespace": NAMESPACE_NAME}
    await scenario.user.create(SECRET, {"metadata": meta, "type": kind, "data": encoded})


async def put_ca(scenario: Scenario, pair: KeyPair, *, suffix: str = "ca", kind: str = "kubernetes.io/tls") -> None:
    await put_secret(scenario, f"c1-{suffix}", {"tls.crt": pair.cert_pem, "tls.key": pair.key_pem}, kind)


async def test_it_is_renewed_once_when_due_by_one_patch_and_the_cluster_stays_ready(scenario: Scenario) -> None:
    await scenario.create(workers=[{"name": "md", "replicas": 1}])
    await scenario.ready()
    before, writes = await read_kubeconfig(scenario), count_secret_writes(scenario)
    ca = await scenario.secret("c1-ca")
    scenario.shift = scenario.child_ahead = DUE
    events = len(scenario.events.lines)
    await scenario.wake()
    after = await read_kubeconfig(scenario)
    assert after != before
    assert parse_kubeconfig(after).server == parse_kubeconfig(before).server
    assert parse_kubeconfig(after).ca_pem == parse_kubeconfig(before).ca_pem
    assert datetime.now(UTC) + DUE - await read_begin(scenario) < timedelta(minutes=6)
    assert count_secret_writes(scenario) - writes == {"patch": 1}
    assert await scenario.secret("c1-ca") == ca
    assert (await scenario.condition("c1", "Ready"))["status"] == "True"
    assert not [line for line in scenario.events.lines[events:] if line[1] == "Warning"]
    total = scenario.api.writes
    await scenario.wake()
    await scenario.restart()
    await scenario.settle()
    assert scenario.api.writes - total == 1  # the test's own
    assert await read_kubeconfig(scenario) == after


async def test_it_is_not_renewed_before(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    before = await read_kubeconfig(scenario)
    scenario.shift = scenario.child_ahead = 240 * DAY
    await scenario.wake()
    assert await read_kubeconfig(scenario) == before


async def test_an_expired_one_is_renewed_when_the_controller_was_away_for_years(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    await scenario.kill()
    scenario.shift = scenario.child_ahead = 800 * DAY
    await scenario.start()
    await scenario.ready()
    renew_at = await read_begin(scenario)
    assert datetime.now(UTC) + 800 * DAY - renew_at < timedelta(minutes=6)


@pytest.mark.parametrize("ahead", [3 * 365 * DAY, DUE])
async def test_a_controller_with_a_wrong_clock_leaves_the_kubeconfig_as_it_is(
    scenario: Scenario, ahead: timedelta
) -> None:
    await scenario.create()
    await scenario.ready()
    before, writes = await read_kubeconfig(scenario), count_secret_writes(scenario)
    scenario.shift = ahead  # the child's clock is right
    await scenario.wake()
    await scenario.wake()
    assert await read_kubeconfig(scenario) == before
    assert count_secret_writes(scenario) == writes
    assert scenario.events.reasons("c1").count("KubeconfigRenewalFailed") == 1
    assert (await scenario.condition("c1", "KubeconfigReady"))["status"] == "True"
    scenario.shift = timedelta(0)
    await scenario.wake()
    assert (await scenario.condition("c1", "Ready"))["status"] == "True"


async def test_a_clock_that_is_behind_renews_nothing(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    before = await read_kubeconfig(scenario)
    scenario.shift = -3 * 365 * DAY
    await scenario.wake()
    assert await read_kubeconfig(scenario) == before


async def test_a_crash_before_the_write_is_made_up_for(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    before = await read_kubeconfig(scenario)
    await scenario.kill()
    scenario.shift = scenario.child_ahead = DUE
    await scenario.start()
    await scenario.settle()
    renewed = await read_kubeconfig(scenario)
    assert renewed != before
    await scenario.restart()
    await scenario.settle()
    assert await read_kubeconfig(scenario) == renewed


async def test_a_users_edit_of_the_server_is_kept(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    edited = (await read_kubeconfig(scenario)).replace(b":6443", b":7443")
    value = {"data": {"value": base64.b64encode(edited).decode()}}
    await scenario.user.merge_patch(SECRET, "c1-kubeconfig", NAMESPACE_NAME, value)
    scenario.shift = scenario.child_ahead = DUE
    await scenario.wake()
    assert parse_kubeconfig(await read_kubeconfig(scenario)).server.endswith(":7443")
    assert await read_kubeconfig(scenario) != edited


async def test_a_users_own_certificate_is_left_and_said(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    ca = await scenario.secret("c1-ca")
    assert ca is not None
    pair = KeyPair(base64.b64decode(ca["data"]["tls.crt"]), base64.b64decode(ca["data"]["tls.key"]))
    now = datetime.now(UTC)
    jane = issue_client(pair, common_name="jane", organizations=("system:masters",), now=now, valid=700 * DAY)
    server = ServerAddress(parse_kubeconfig(await read_kubeconfig(scenario)).server)
    own = build_kubeconfig(cluster="c1", server=server, ca_pem=pair.cert_pem, client=jane).encode()
    assert compute_renewal(own, pair) is None
    value = {"data": {"value": base64.b64encode(own).decode()}}
    await scenario.user.merge_patch(SECRET, "c1-kubeconfig", NAMESPACE_NAME, value)
    scenario.shift = scenario.child_ahead = DUE
    await scenario.wake()
    assert await read_kubeconfig(scenario) == own
    condition = await scenario.condition("c1", "KubeconfigReady")
    assert (condition["status"], condition["reason"]) == ("True", "UserProvided")


async def test_a_call_in_flight_survives_the_new_connection(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    assert scenario.controllers is not None
    cluster = await scenario.cluster()
    assert cluster is not None
    uid = cluster["metadata"]["uid"]
    held = scenario.controllers.children.get(uid)
    assert held is not None
    scenario.shift = scenario.child_ahead = DUE
    await scenario.wake()
    child = scenario.controllers.children.get(uid)
    assert child is not None
    assert child is not held
    assert await held.client.get(NODE, "c1-cp-0") is not None
    assert await child.client.get(NODE, "c1-cp-0") is not None


@pytest.mark.parametrize("kind", ["Opaque", "kubernetes.io/tls", names.SECRET_TYPE_CAPI])
async def test_a_users_ca_is_used_neither_owned_nor_deleted(scenario: Scenario, kind: str) -> None:
    pair = generate_ca(common_name="ours", organization="team", now=datetime.now(UTC))
    await put_ca(scenario, pair, kind=kind)
    before = await scenario.secret("c1-ca")
    await scenario.create()
    await scenario.ready()
    assert parse_kubeconfig(await read_kubeconfig(scenario)).ca_pem == pair.cert_pem
    assert await scenario.secret("c1-ca") == before
    for suffix in ("etcd", "proxy", "sa"):
        made = await scenario.secret(f"c1-{suffix}")
        assert made is not None
        assert made["metadata"]["ownerReferences"]
    await scenario.delete()
    await scenario.gone()
    assert await scenario.secret("c1-ca") == before
    assert await scenario.secret("c1-etcd") is None


async def test_all_four_of_a_user_are_used(scenario: Scenario) -> None:
    pki = generate_pki(now=datetime.now(UTC), cluster="team")
    pairs = {"ca": pki.ca, "etcd": pki.etcd_ca, "proxy": pki.proxy_ca, "sa": pki.sa}
    for suffix, pair in pairs.items():
        await put_ca(scenario, pair, suffix=suffix)
    await scenario.create()
    await scenario.ready()
    for suffix in pairs:
        secret = await scenario.secret(f"c1-{suffix}")
        assert secret is not None
        assert "ownerReferences" not in secret["metadata"]


async def test_a_ca_that_cannot_be_used_is_refused_and_its_replacement_taken(scenario: Scenario) -> None:
    now = datetime.now(UTC)
    real = generate_ca(common_name="ours", organization="team", now=now)
    leaf = issue_client(real, common_name="x", organizations=(), now=now, valid=3000 * DAY)
    await put_ca(scenario, leaf)
    await scenario.create()

    async def is_refused() -> bool:
        return (await scenario.condition("c1", "CertificatesAvailable")).get("reason") == "CAUnusable"

    await scenario.until(is_refused)
    assert "Secret c1-ca, key tls.crt" in (await scenario.condition("c1", "Stalled"))["message"]
    assert await scenario.secret("c1-kubeconfig") is None
    assert not scenario.world.machines
    encoded = {"tls.crt": real.cert_pem, "tls.key": real.key_pem}
    data = {"data": {key: base64.b64encode(value).decode() for key, value in encoded.items()}}
    await scenario.user.merge_patch(SECRET, "c1-ca", NAMESPACE_NAME, data)
    await scenario.wake()
    await scenario.ready()
    assert parse_kubeconfig(await read_kubeconfig(scenario)).ca_pem == real.cert_pem


async def test_the_last_year_of_a_ca_is_told_of(scenario: Scenario) -> None:
    await scenario.create()
    await scenario.ready()
    scenario.shift = scenario.child_ahead = 3300 * DAY
    await scenario.wake()
    condition = await scenario.condition("c1", "CertificatesAvailable")
    assert (condition["status"], condition["reason"]) == ("True", "CAExpiring")
    assert (await scenario.condition("c1", "Ready"))["status"] == "True"
    assert "CAExpiring" in scenario.events.reasons("c1")
    writes = scenario.api.writes
    scenario.shift = scenario.child_ahead = 3350 * DAY
    await scenario.wake()
    assert scenario.api.writes - writes == 1  # the test's own


async def test_a_control_plane_that_does_not_renew_its_certificates_is_told_of(scenario: Scenario) -> None:
    await scenario.create(workers=[{"name": "md", "replicas": 1}])
    await scenario.ready()
    cluster = await scenario.user.get(NESTED_CLUSTER, "c1", NAMESPACE_NAME)
    assert cluster is not None
    child = scenario.api_of(cluster["metadata"]["uid"]).as_manager("kubelet")

    async def say(node: str, days: int, failure: str | None) -> str:
        end = f"{datetime.now(UTC) + days * DAY:%Y-%m-%dT%H:%M:%SZ}"
        said = {names.ANNOTATION_CERTIFICATES_END: end, names.ANNOTATION_CERTIFICATES_FAILURE: failure}
        await child.merge_patch(NODE, node, "", {"metadata": {"annotations": said}})
        return end

    async def shown(machine: str) -> Any:
        found = await scenario.machine(machine)
        return (found or {}).get("status", {}).get("certificates")

    end = await say("c1-cp-0", 100, "no key")
    await scenario.until(lambda: _equals(shown("c1-cp-0"), {"end": end, "failure": "no key"}))
    await scenario.wake()
    assert (await scenario.condition("c1", "CertificatesAvailable"))["reason"] == "Available"
    end = await say("c1-cp-0", 29, "no key")
    await scenario.until(lambda: _equals(shown("c1-cp-0"), {"end": end, "failure": "no key"}))
    await scenario.wake()
    condition = await scenario.condition("c1", "CertificatesAvailable")
    assert (condition["status"], condition["reason"]) == ("True", "LeafCertificateExpiring")
    assert "on c1-cp-0 end on" in condition["message"]
    assert "no key" in condition["message"]
    assert (await scenario.condition("c1", "Ready"))["status"] == "True"
    await scenario.restart()
    await scenario.settle()
    assert (await scenario.condition("c1", "CertificatesAvailable"))["reason"] == "LeafCertificateExpiring"
    end = await say("c1-cp-0", 365, None)
    await scenario.until(lambda: _equals(shown("c1-cp-0"), {"end": end}))
    await scenario.wake()
    assert (await scenario.condition("c1", "CertificatesAvailable"))["reason"] == "Available"
    await say("c1-md-0", 1, "a worker has nothing to say here")
    await scenario.settle()
    assert await shown("c1-md-0") is None


async def _equals(found: Awaitable[Any], wanted: object) -> bool:
    return bool(await found == wanted)
