"""Exit codes of the `capn` command, the same for ever, and the one line that an error becomes.

Role: error -> (code, text). Must not: hide an error's class from --debug.
"""

from __future__ import annotations

from capn.dev.waiting import WaitTimeoutError
from capn.errors import ApiStatusError, CapnError, NotFoundError

OK, FAILED, USAGE, NOT_FOUND, TIMEOUT, CHANGES = 0, 1, 2, 3, 4, 5
INTERRUPTED = 130
HELP = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 took too long, 5 there are changes (plan)."
_HTTP_NOT_FOUND = 404


def unwrap(error: BaseException) -> BaseException:
    """The first real error of an exception group (task groups wrap what their tasks raise)."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    error = unwrap(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, NotFoundError) or (isinstance(error, ApiStatusError) and error.code == _HTTP_NOT_FOUND):
        return NOT_FOUND
    if isinstance(error, (WaitTimeoutError, TimeoutError)):
        return TIMEOUT
    return FAILED


def describe(error: BaseException) -> str:
    """What to print. Only errors of our own know the fix; for the rest the way to learn more is named."""
    error = unwrap(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, CapnError):
        return f"error: {error}"
    return f"error: {type(error).__name__}: {error} (a bug in capn? run again with --debug for the traceback)"
