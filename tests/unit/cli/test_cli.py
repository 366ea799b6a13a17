"""The command line: help, exit codes, one-line errors, progress on and off a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from rich.console import Console

from capn import __version__
from capn.cli import doctor, exits
from capn.cli import run as run_module
from capn.cli.app import DEFAULT_VERSION, app, main
from capn.cli.progress import PlainProgress, TerminalProgress, make_progress
from capn.cli.read import choose_kubeconfig, format_table, write_data
from capn.dev.files import write_private
from capn.dev.progress import format_elapsed
from capn.dev.waiting import WaitTimeoutError
from capn.errors import ApiStatusError, InvalidSpecError, NotFoundError, TerminalError, UnreachableError
from capn.parts import catalogue
from capn.settings import Settings

HEAVY = ("kubernetes_asyncio", "libvirt", "aiohttp", "pydantic", "cryptography", "structlog")


def run_capn(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "capn", *args]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120", **env}, timeout=60
    )


def test_help_lists_every_command_and_the_exit_codes() -> None:
    done = run_capn("--help", NO_COLOR="1")
    assert done.returncode == 0
    for word in (
        "run",
        "demo",
        "tree",
        "kubeconfig",
        "exec",
        "explain",
        "plan",
        "dashboard",
        "doctor",
        "dev",
        "image",
        "parts",
        "version",
        "Exit codes: 0 done",
    ):
        assert word in done.stdout


def test_help_imports_nothing_heavy_and_is_fast() -> None:
    code = f"import sys, capn.cli.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    before = os.times()
    run_capn("--help")
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    assert spent < 1.0  # CPU time on a busy machine; 0.2 s alone


def test_a_missing_thing_is_exit_code_3_and_one_line(tmp_path: Path) -> None:
    done = run_capn("dev", "status", "--name", "nope", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == exits.NOT_FOUND
    assert done.stderr == "error: no environment 'nope'; start one with `capn dev up --name nope`\n"


def test_wrong_usage_is_exit_code_2() -> None:
    assert run_capn("tree", "--nonsense").returncode == exits.USAGE
    assert run_capn("nonsense").returncode == exits.USAGE


def test_bad_settings_name_the_field(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("endpoints: {libvirt: {default: {kind: libvirt, accel: warp}}}\n")
    done = run_capn("run", "--settings", str(settings))
    assert done.returncode == exits.FAILED
    assert "endpoints.libvirt.default" in done.stderr
    assert "accel" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_capn("--debug", "run", "--settings", str(tmp_path / "missing.yaml"))
    assert done.returncode == exits.FAILED
    assert "Traceback" in done.stderr
    assert "missing.yaml" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("x"), 3),
        (ApiStatusError(404, "x"), 3),
        (ApiStatusError(403, "x"), 1),
        (WaitTimeoutError("x"), 4),
        (TerminalError("x"), 1),
        (UnreachableError("x"), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 130),
        (ExceptionGroup("g", [ExceptionGroup("h", [NotFoundError("x")])]), 3),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exits.exit_code(error) == code


def test_unknown_errors_say_how_to_learn_more() -> None:
    assert exits.describe(ValueError("odd")) == (
        "error: ValueError: odd (a bug in capn? run again with --debug for the traceback)"
    )
    assert exits.describe(TerminalError("do this")) == "error: do this"


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["capn", "version", "-o", "json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"capn": __version__, "kubernetes": DEFAULT_VERSION}


def test_the_default_version_is_the_catalogues() -> None:
    assert catalogue.DEFAULT_VERSION == DEFAULT_VERSION


def test_every_command_has_help() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    commands = [command for group in groups if group for command in group.registered_commands]
    assert len(commands) > 12
    assert all(command.callback and command.callback.__doc__ for command in commands)


def test_plain_progress_is_lines_with_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.0, 112.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    progress = PlainProgress(out)
    with progress.step("Booting") as report:
        report("kubeadm/etcd")
    assert out.getvalue().splitlines() == [" * Booting ...", "    0:07  kubeadm/etcd", " * Booting ... done (12 s)"]
    assert [(timing.title, timing.seconds) for timing in progress.timings] == [("Booting", 12.0)]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failed_step_is_marked_and_not_timed(*, terminal: bool) -> None:
    out = io.StringIO()
    progress = TerminalProgress(Console(file=out, width=100)) if terminal else PlainProgress(out)
    with pytest.raises(TerminalError), progress.step("Booting [red]x[/red]"):
        raise TerminalError("no")
    last = out.getvalue().splitlines()[-1]
    assert ("✗" if terminal else "FAILED") in last
    assert not progress.timings


def test_the_terminals_form_is_only_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(io.StringIO()), PlainProgress)
    assert isinstance(make_progress(Terminal()), TerminalProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(Terminal()), PlainProgress)


def test_no_color_leaves_out_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    for no_color, coloured in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", no_color)
        out = Terminal()
        with make_progress(out).step("Booting"):
            pass
        assert ("\x1b[32m" in out.getvalue()) is coloured


def test_elapsed() -> None:
    assert [format_elapsed(seconds) for seconds in (0, 59.9, 125, 3600)] == ["0:00", "0:59", "2:05", "60:00"]


def test_output_forms(capsys: pytest.CaptureFixture[str]) -> None:
    data = [{"name": "a", "ready": True}]
    for form in ("json", "yaml", "table"):
        write_data(data, form, lambda: format_table(("NAME", "READY"), [("a", "yes")]))
        out = capsys.readouterr().out
        assert out.splitlines() == ["NAME  READY", "a     yes"] if form == "table" else yaml.safe_load(out) == data


def test_chooses_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match="--kubeconfig or KUBECONFIG"):
        choose_kubeconfig(None)
    second = tmp_path / "second"
    second.write_text("")
    assert choose_kubeconfig(Path(f"{tmp_path}/first:{second}")) == second
    with pytest.raises(NotFoundError, match=f"{tmp_path}/a, {tmp_path}/b"):
        choose_kubeconfig(Path(f"{tmp_path}/a:{tmp_path}/b"))


def write_settings(tmp_path: Path) -> Path:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"endpoints": {"kubevirt": {"default": {"kind": "kubevirt"}}}}))
    return settings


@pytest.mark.parametrize("listed", [True, False])
def test_run_and_doctor_choose_the_kubeconfig_as_the_others_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a list as KUBECONFIG, and doctor by ~/.kube/config, too."""
    asked: list[Path] = []

    async def connect(path: Path) -> NoReturn:
        asked.append(path)
        raise InvalidSpecError("--kubeconfig", "seen")

    for module in (run_module, doctor):
        monkeypatch.setattr(module, "connect_kubeconfig", connect)
    monkeypatch.setenv("HOME", str(tmp_path))
    there = tmp_path / ".kube" / "config"
    there.parent.mkdir()
    there.write_text("")
    given = Path(f"{tmp_path}/none:{there}") if listed else None
    with pytest.raises(TerminalError, match="kubevirt endpoint default"):
        doctor.show_report(write_settings(tmp_path), given, probe=False, output="json")
    assert "seen" in capsys.readouterr().out
    if listed:
        with pytest.raises(InvalidSpecError, match="seen"):
            asyncio.run(run_module._run(given, Settings()))
    assert asked == [there] * (2 if listed else 1)


def test_doctor_says_when_there_is_no_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TerminalError, match="kubevirt endpoint default"):
        doctor.show_report(write_settings(tmp_path), None, probe=False, output="json")
    assert f"no kubeconfig at {tmp_path}/.kube/config" in capsys.readouterr().out


def test_private_files_are_private_even_if_they_were_not(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
