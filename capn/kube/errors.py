"""Errors of an API server's answers, and how a status becomes one.

Role: the one place that maps HTTP statuses and `metav1.Status` bodies to `capn.errors`. Input is untrusted when the
server is a child's, so texts are cut and cleaned. Must not: do I/O or decide about retries.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from capn.errors import ApiStatusError, CapnError, ConflictError, NotFoundError, TransientError

_MAX_MESSAGE = 1024


class WatchExpiredError(TransientError):
    """The revision to watch from is compacted (HTTP 410): list again, then watch from the list's revision."""

    default_reason = "WatchExpired"


class OverloadedError(ApiStatusError):
    """HTTP 429 or 503: the server did not do it and asks to come back; `retry_after_s` is its own wish, if it told."""

    default_reason = "Overloaded"

    def __init__(self, code: int, message: str, *, retry_after_s: float | None, reason: str | None = None) -> None:
        super().__init__(code, message, reason=reason)
        self.retry_after_s = retry_after_s


class CommandFailedError(TransientError):
    """A command in a container ended with an exit code other than 0; `stderr` is what it said, untrusted."""

    default_reason = "CommandFailed"

    def __init__(self, what: str, *, exit_code: int, stderr: bytes) -> None:
        said = last_line(stderr)
        super().__init__(f"{what}: the command ended with exit code {exit_code}{': ' if said else ''}{said}")
        self.exit_code = exit_code
        self.stderr = stderr


class DisruptionBudgetError(ApiStatusError):
    """HTTP 429 to an eviction: a PodDisruptionBudget does not let the pod go now. `budget` says which and its numbers.

    Not an OverloadedError: to ask again at once would not help.
    """

    default_reason = "DisruptionBudget"

    def __init__(self, message: str, *, budget: str) -> None:
        super().__init__(HTTPStatus.TOO_MANY_REQUESTS, message)
        self.budget = budget


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class Status(msgspec.Struct):
    """The part of `metav1.Status` that tells why a request was refused."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_DECODER = msgspec.json.Decoder(Status)


def decode_status(body: bytes) -> Status:
    """The Status in a refusal's body; the body's beginning as message when it is none."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return Status(message=body[:_MAX_MESSAGE].decode("utf-8", "replace"))


def build_error(code: int, status: Status, *, what: str, retry_after_s: float | None = None) -> CapnError:
    """The exception for HTTP status `code`; `what` names the request, such as `apply secrets default/a`."""
    message = f"{what}: {_clean(status.message) or f'HTTP {code}'}"
    reason = _reason(status)
    if code == HTTPStatus.TOO_MANY_REQUESTS and (budget := _find_cause(status, "DisruptionBudget")) is not None:
        return DisruptionBudgetError(message, budget=_clean(budget.message) or message)
    if code == HTTPStatus.NOT_FOUND:
        return NotFoundError(message, reason=reason)
    if code == HTTPStatus.CONFLICT:
        return ConflictError(message, reason=reason)
    if code == HTTPStatus.GONE:
        return WatchExpiredError(message)
    if code in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return OverloadedError(code, message, retry_after_s=retry_after_s, reason=reason)
    return ApiStatusError(code, message, reason=reason)


def _reason(status: Status) -> str | None:
    # A namespace on its way out answers Forbidden; only the cause tells it from missing RBAC.
    if _find_cause(status, "NamespaceTerminating") is not None:
        return "NamespaceTerminating"
    return status.reason[:64] or None


def last_line(said: bytes) -> str:
    """The last line of a program's errors, cut and cleaned for people; empty when it said nothing."""
    lines = said[-_MAX_MESSAGE:].decode("utf-8", "replace").strip().splitlines()
    return _clean(lines[-1]) if lines else ""


def _find_cause(status: Status, reason: str) -> _Cause | None:
    causes = (status.details.causes if status.details else None) or []
    return next((cause for cause in causes if cause.reason == reason), None)


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_MAX_MESSAGE]).strip()


def is_too_new(error: BaseException) -> bool:
    """True for 'Too large resource version': the server's state is older than ours (restored backup), so list again."""
    return isinstance(error, ApiStatusError) and error.code == HTTPStatus.GATEWAY_TIMEOUT
