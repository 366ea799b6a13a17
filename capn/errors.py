"""The one tree of errors that capn raises.

Role: tells the reconcile loop what to do. A `TerminalError` needs a person (the condition says what to change); a
`TransientError` is retried with backoff. Waiting for something that is merely not there yet is never an error: it is
`Result.after`. Must not: carry secrets, since messages end in conditions, events and logs.

    CapnError
    |-- TerminalError            a person must act; retried only slowly or on change
    |   |-- InvalidSpecError     the user's object; names the field and the fix
    |   `-- OwnershipError       something with our name that does not carry our UID
    `-- TransientError           may pass by itself
        |-- ConflictError        optimistic lock or field-manager conflict (HTTP 409)
        `-- UnreachableError     no answer: API server, hypervisor or child down
    NotFoundError (CapnError)    the thing asked for does not exist (HTTP 404)
    ApiStatusError (CapnError)   any other refusal of an API server, with its code
"""

from __future__ import annotations


class CapnError(Exception):
    """Base of everything that capn raises on purpose.

    `reason` is a CamelCase word for a condition or event; `str(error)` is the message for people and names the fix.
    """

    default_reason = "Error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason


class TerminalError(CapnError):
    """Retrying does not help until a person changes something."""

    default_reason = "Failed"


class InvalidSpecError(TerminalError):
    """The user's object cannot be satisfied; `field` is its path, such as `spec.network.podCIDR`."""

    default_reason = "InvalidSpec"

    def __init__(self, field: str, message: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {message}", reason=reason)
        self.field = field


class OwnershipError(TerminalError):
    """Something exists under our name but belongs to somebody else; it is never changed or deleted."""

    default_reason = "OwnedByAnother"


class TransientError(CapnError):
    """May pass by itself; the queue backs off and tries again."""

    default_reason = "Retrying"


class PendingError(TransientError):
    """Nothing failed: somebody else is at work on it, and tells when it is done or is asked again in `after_s`."""

    default_reason = "Waiting"
    after_s = 10.0


class ConflictError(TransientError):
    """A write lost an optimistic lock or a field-manager conflict."""

    default_reason = "Conflict"


class UnreachableError(TransientError):
    """The other side gave no answer."""

    default_reason = "Unreachable"


class NotFoundError(CapnError):
    """The thing asked for does not exist."""

    default_reason = "NotFound"


class ApiStatusError(CapnError):
    """An API server refused with a status that has no class of its own; `code` is the HTTP status."""

    default_reason = "Refused"

    def __init__(self, code: int, message: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.code = code
