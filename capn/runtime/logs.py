"""Logs: structlog, for people or as JSON lines, with secrets kept out.

Role: set up once by the composition root. The controller loop binds controller, object key and reconcile id, so that
every line within a reconcile carries them. Must not: decide what is logged.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"secret|token|kubeconfig|user_?data|passw|credential|private|key_pem|bootstrap_data", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b[a-z0-9]{6}\.[a-z0-9]{16}\b"  # kubeadm bootstrap token
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web token
    r"|\b(?:client-key-data|certificate-key)\W+\S+",
    re.DOTALL,
)
# Names that only point to a secret are no secret.
_HARMLESS_NAME = re.compile(r"(?:name|names|count|ref)$", re.IGNORECASE)


def configure_logs(
    *,
    log_format: Literal["console", "json"] = "console",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> None:
    """Send all lines, also those of libraries, to `stream` (stderr) in the given form."""
    number = logging.getLevelNamesMapping()[level.upper()]
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries' debug lines hold whole requests.
    root.setLevel(max(number, logging.INFO))
    logging.getLogger("capn").setLevel(number)


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace values named like secrets, and what looks like one in any text."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:  # noqa: ANN401 - any value may be logged
    if _SECRET_NAME.search(name) and not _HARMLESS_NAME.search(name) and value is not None:
        return REDACTED
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value)
    if isinstance(value, BaseException):
        return _SECRET_TEXT.sub(REDACTED, str(value))
    if isinstance(value, Mapping):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    return _clean_sequence(value)


def _clean_sequence(value: Any) -> Any:  # noqa: ANN401 - any value may be logged
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", inner) for inner in value]
    return value
