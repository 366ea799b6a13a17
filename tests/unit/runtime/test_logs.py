"""Logs: the reconcile's key on each line, secrets on none."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog

from capn.runtime.logs import REDACTED, configure_logs, redact

TOKEN = "abcdef.0123456789abcdef"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEI\n-----END EC PRIVATE KEY-----"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(log_format: Literal["console", "json"] = "json", level: Literal["debug", "info"] = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(log_format=log_format, level=level, stream=stream)
    return stream


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_the_context() -> None:
    stream = lines()
    with structlog.contextvars.bound_contextvars(object="ns/a", reconcile="c-1"):
        structlog.get_logger("capn.test").info("created", machines=3)
    (line,) = parsed(stream)
    assert line["event"] == "created"
    assert line["object"] == "ns/a"
    assert line["reconcile"] == "c-1"
    assert line["machines"] == 3
    assert line["level"] == "info"
    assert line["logger"] == "capn.test"
    assert line["timestamp"].endswith("Z")


def test_levels() -> None:
    stream = lines()
    structlog.get_logger("capn.test").debug("no")
    assert stream.getvalue() == ""
    stream = lines(level="debug")
    structlog.get_logger("capn.test").debug("yes")
    logging.getLogger("aiohttp.client").debug("never: whole requests")
    assert [line["event"] for line in parsed(stream)] == ["yes"]


def test_console_lines_are_plain_without_a_terminal() -> None:
    stream = lines("console")
    structlog.get_logger("capn.test").info("created", name="a")
    assert "created" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_libraries_log_in_the_same_form_and_are_redacted() -> None:
    stream = lines()
    logging.getLogger("some.library").warning("sent %s", TOKEN)
    (line,) = parsed(stream)
    assert line["event"] == f"sent {REDACTED}"
    assert line["logger"] == "some.library"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_gets_out(log_format: Literal["console", "json"]) -> None:
    stream = lines(log_format)
    logger = structlog.get_logger("capn.test")
    logger.info(" ".join(["joining with", TOKEN]), user_data="#cloud-config canary-1", kubeconfig="canary-2", count=1)
    logger.info("x", nested={"inner": {"password": "canary-3"}, "list": [KEY, {"token": "canary-4"}]})
    logger.info("x", data=b"canary-5", client_private="canary-6", error=ValueError(f"bad {KEY}"))
    try:
        raise ValueError(f"cannot parse {KEY} {TOKEN}")  # noqa: TRY301 - its traceback is what is tested
    except ValueError:
        logger.exception("failed")
    text = stream.getvalue()
    assert "cannot parse" in text
    for canary in ("canary-", TOKEN, "MHcCAQEEI"):
        assert canary not in text


def test_names_that_only_point_to_a_secret_stay() -> None:
    event = redact(None, "", {"event": "x", "secret_name": "c-ca", "token_count": 3, "tokens": None})
    assert event == {"event": "x", "secret_name": "c-ca", "token_count": 3, "tokens": None}
