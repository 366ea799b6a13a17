"""One endpoint of several hypervisors: each failure domain has a provider of its own, which knows nothing of that.

Role: implements `capn.providers.base.Provider` over providers whose machines share one network; what is asked about a
machine goes to its domain's. An endpoint that is one whole is one domain without a name, so that a machine of a domain
that the settings have lost is unknown there too, and not taken for gone. Inputs: providers by the domains' names, in
the administrator's order. Must not: choose a machine's domain, or conclude anything from a domain that is silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from capn.build.claim_report import ClaimReport
from capn.errors import CapnError, InvalidSpecError, TerminalError, UnreachableError
from capn.kube.client import KubeClient
from capn.providers.base import (
    ClusterRef,
    ClusterRequest,
    FailureDomain,
    MachineRef,
    MachineRequest,
    ObservedCluster,
    ObservedMachine,
    Problem,
    Provider,
)
from capn.providers.follow import follow_changes

# Beside others a domain has so long to answer about a cluster: who is silent must not slow every reconcile down.
PATIENCE_S = 10.0
_AnswerT = TypeVar("_AnswerT")


class DomainProvider:
    """`domains`: at least one provider, all of one kind, by name; a single one may have the empty name."""

    def __init__(self, domains: Mapping[str, Provider]) -> None:
        self.domains: Mapping[str, Provider] = MappingProxyType(dict(domains))
        first = next(iter(self.domains.values()))
        self._patience_s = PATIENCE_S if len(self.domains) > 1 else None
        self.kind = first.kind
        self.keeps_addresses = first.keeps_addresses

    async def observe_cluster(self, ref: ClusterRef) -> ObservedCluster | None:
        """What the domains have for the cluster; None when those that answer have nothing."""
        answers = await self._ask(lambda provider: provider.observe_cluster(ref), limit_s=self._patience_s)
        if all(isinstance(answer, CapnError) for answer in answers.values()):
            raise _first_error(answers)
        return _merge(answers)

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        """The cluster's network in every domain that answers. The first of them chooses the endpoint's address.

        A domain that is silent, or refuses, has a `problem` in the answer; the error is raised when all of them do.
        """
        answers: dict[str, ObservedCluster | CapnError] = {}
        for name, provider in self.domains.items():
            if request.endpoint_host is not None:
                break
            answers[name] = answer = await _settle(self._ensure(request), provider, self._patience_s)
            if isinstance(answer, ObservedCluster):
                request = replace(request, endpoint_host=answer.endpoint_host)
        left = [name for name in self.domains if name not in answers]
        answers |= await self._ask(self._ensure(request), left, limit_s=self._patience_s)
        seen = _merge(answers)
        if seen is None:
            raise _first_error(answers)
        return seen

    async def tell_cluster(self, ref: ClusterRef, report: ClaimReport, *, paused: bool) -> None:
        """Pass it on to each domain."""
        for provider in self.domains.values():
            await provider.tell_cluster(ref, report, paused=paused)

    async def delete_cluster(self, ref: ClusterRef) -> bool:
        """Remove it from every domain; one that is silent holds up none of the others, and is waited for."""
        answers = await self._ask(lambda provider: provider.delete_cluster(ref))
        _raise_any(answers)
        return all(answer is True for answer in answers.values())

    async def ensure_address(self, ref: MachineRef) -> str | None:
        """The address that the machine's domain keeps for it."""
        return await (await self._locate(ref)).ensure_address(ref)

    async def observe_machine(self, ref: MachineRef) -> ObservedMachine | None:
        """The VM, or None. UnreachableError (DomainNotFound) when the settings do not have the machine's domain."""
        return await (await self._locate(ref)).observe_machine(ref)

    async def plan_machine(self, request: MachineRequest) -> None:
        """Ask the machine's domain; of a machine without one, every domain that answers must be able to make it."""
        if request.ref.failure_domain or "" in self.domains:
            await (await self._locate(request.ref)).plan_machine(request)
            return
        answers = await self._ask(lambda provider: provider.plan_machine(request), limit_s=self._patience_s)
        _raise_any({name: answer for name, answer in answers.items() if isinstance(answer, TerminalError)})
        if all(isinstance(answer, CapnError) for answer in answers.values()):
            raise _first_error(answers)

    async def ensure_machine(self, request: MachineRequest) -> ObservedMachine:
        """Make or start the machine in its domain."""
        return await (await self._locate(request.ref)).ensure_machine(request)

    async def release_bootstrap_data(self, ref: MachineRef) -> None:
        """Take the seed away, wherever it may be."""
        _raise_any(await self._ask(lambda provider: provider.release_bootstrap_data(ref), self._list_possible(ref)))

    async def stop_machine(self, ref: MachineRef, *, force: bool) -> bool:
        """Switch the VM off."""
        return await (await self._locate(ref)).stop_machine(ref, force=force)

    async def delete_machine(self, ref: MachineRef) -> bool:
        """Remove the VM and what belongs to it, wherever that may be."""
        answers = await self._ask(lambda provider: provider.delete_machine(ref), self._list_possible(ref))
        _raise_any(answers)
        return all(answer is True for answer in answers.values())

    async def console(self, ref: MachineRef) -> AsyncIterator[bytes]:
        """The serial console's bytes."""
        async for chunk in (await self._locate(ref)).console(ref):
            yield chunk

    async def changes(self) -> AsyncIterator[MachineRef | ClusterRef]:
        """What changed in any domain; a stream that breaks is opened again and does not end the others."""
        found: asyncio.Queue[MachineRef | ClusterRef] = asyncio.Queue()
        readers = [
            asyncio.create_task(_follow(name, provider, found.put_nowait), name=f"changes/{provider.kind}/{name}")
            for name, provider in self.domains.items()
        ]
        try:
            while True:
                yield await found.get()
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def open_child(self, ref: ClusterRef, kubeconfig: bytes) -> KubeClient:
        """A client for the child's API by the first domain that answers: all of them have the same network."""
        answers: dict[str, KubeClient | CapnError] = {}
        for name, provider in self.domains.items():
            try:
                return await provider.open_child(ref, kubeconfig)
            except UnreachableError as error:
                answers[name] = error
        raise _first_error(answers)

    async def close(self) -> None:
        """Close every domain's provider."""
        for provider in self.domains.values():
            await provider.close()

    async def _locate(self, ref: MachineRef) -> Provider:
        """The provider of the machine's domain; one that was made before there were domains is where it is found."""
        possible = self._list_possible(ref)
        if len(possible) == 1:
            return self.domains[possible[0]]
        answers = await self._ask(lambda provider: provider.observe_machine(ref))
        for name, answer in answers.items():
            if isinstance(answer, ObservedMachine):
                return self.domains[name]
        _raise_any(answers)
        return self.domains[possible[0]]

    def _list_possible(self, ref: MachineRef) -> list[str]:
        """Names of domains that may have the machine."""
        if ref.failure_domain in self.domains:
            return [ref.failure_domain]
        if not ref.failure_domain:
            return list(self.domains)
        offered = ", ".join(filter(None, self.domains)) or "none"
        raise UnreachableError(
            f"the endpoint has no failure domain {ref.failure_domain} (it has: {offered}), so nothing is known of the"
            " VM: define the domain again in the controller's settings",
            reason="DomainNotFound",
        )

    @staticmethod
    def _ensure(request: ClusterRequest) -> Callable[[Provider], Awaitable[ObservedCluster]]:
        return lambda provider: provider.ensure_cluster(request)

    async def _ask(
        self,
        ask: Callable[[Provider], Awaitable[_AnswerT]],
        names: Iterable[str] | None = None,
        *,
        limit_s: float | None = None,
    ) -> dict[str, _AnswerT | CapnError]:
        """What each domain (by default all) answers, asked at once, or how it failed."""
        asked = list(self.domains if names is None else names)
        answers = await asyncio.gather(*(_settle(ask, self.domains[name], limit_s) for name in asked))
        return dict(zip(asked, answers, strict=True))


async def _settle(
    ask: Callable[[Provider], Awaitable[_AnswerT]], provider: Provider, limit_s: float | None
) -> _AnswerT | CapnError:
    try:
        async with asyncio.timeout(limit_s):
            return await ask(provider)
    except TimeoutError:
        return UnreachableError("the hypervisor does not answer in time", reason="HypervisorUnreachable")
    except CapnError as error:
        return error


def _first_error(answers: Mapping[str, object]) -> CapnError:
    """What failed first, with the domain's name; a refusal of the user's object begins with the field as it is."""
    name, error = next((name, answer) for name, answer in answers.items() if isinstance(answer, CapnError))
    if name and not isinstance(error, InvalidSpecError):
        error.args = (f"failure domain {name}: {error}",)
    return error


def _raise_any(answers: Mapping[str, object]) -> None:
    if any(isinstance(answer, CapnError) for answer in answers.values()):
        raise _first_error(answers)


def _merge(answers: Mapping[str, ObservedCluster | CapnError | None]) -> ObservedCluster | None:
    """The cluster as the first domain has it that knows it, with what keeps each of the others from being used."""
    seen = next((answer for answer in answers.values() if isinstance(answer, ObservedCluster)), None)
    if seen is None:
        return None
    domains = [FailureDomain(name, _find_problem(answer, seen)) for name, answer in answers.items() if name]
    return replace(seen, failure_domains=tuple(domains))


def _find_problem(answer: ObservedCluster | CapnError | None, seen: ObservedCluster) -> Problem | None:
    if isinstance(answer, CapnError):
        return Problem(answer.reason, str(answer), passes=not isinstance(answer, TerminalError))
    if answer is not None and answer.endpoint_host != seen.endpoint_host:
        message = (
            f"it keeps {answer.endpoint_host} for the cluster's endpoint, which is {seen.endpoint_host}: remove that"
            " entry from its network"
        )
        return Problem("EndpointDiffers", message)
    return None


async def _follow(name: str, provider: Provider, tell: Callable[[MachineRef | ClusterRef], None]) -> None:
    """Tell of a domain's changes for ever. What a provider finds by itself does not say in which domain it is."""

    def tell_where(ref: MachineRef | ClusterRef) -> None:
        tell(replace(ref, failure_domain=name) if isinstance(ref, MachineRef) else ref)

    await follow_changes(provider, tell_where, kind=provider.kind, domain=name)
