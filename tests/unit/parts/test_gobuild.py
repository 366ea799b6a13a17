from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from capn.errors import NotFoundError, TerminalError
from capn.parts.catalogue import CPart, Part, select_parts
from capn.parts.gobuild import GoBuildSource
from capn.parts.gomodule import find_module
from tests.unit.parts.fakes import TOOL, write_program

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
HELLO = 'package main\n\nvar version = "none"\n\nfunc main() { println(version) }\n'


def errors_of(program: Path) -> bytes:
    return subprocess.run([program], check=True, capture_output=True).stderr


def write_module(hack: Path, source: str) -> Part:
    module = hack / "parts/hello"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module example.test/hello\n\ngo 1.22\n")
    (module / "main.go").write_text(source)
    return Part("hello", "v1.0.0", "parts/hello", "example.test/hello", ("-s", "-X=main.version=v1.0.0"))


@needs_go
async def test_a_module_is_built_with_its_version(tmp_path: Path) -> None:
    part = write_module(tmp_path, HELLO)
    await GoBuildSource(hack=tmp_path).fetch(part, tmp_path / "hello")
    assert errors_of(tmp_path / "hello") == b"v1.0.0\n"


@needs_go
async def test_a_compiler_error_is_shown(tmp_path: Path) -> None:
    part = write_module(tmp_path, HELLO.replace("println(version)", "nosuch()"))
    with pytest.raises(TerminalError, match=r"building hello v1\.0\.0: (.|\n)*undefined: nosuch") as caught:
        await GoBuildSource(hack=tmp_path).fetch(part, tmp_path / "hello")
    assert caught.value.reason == "PartBuildFailed"


def test_the_command_says_all_that_matters(tmp_path: Path) -> None:
    part = select_parts(["runc"])[0]
    argv = GoBuildSource(hack=tmp_path, jobs=1).argv(part, tmp_path / "out")
    assert argv[:2] == ["go", "build"]
    assert {"-mod=readonly", "-trimpath", "-p=1", "-tags=seccomp,osusergo,netgo", f"-o={tmp_path}/out"} <= set(argv)
    assert argv[-1] == "github.com/opencontainers/runc"
    assert "-extldflags=-static" in next(word for word in argv if word.startswith("-ldflags=")).split()


def test_the_digest_follows_the_inputs(tmp_path: Path) -> None:
    part = write_module(tmp_path, HELLO)
    source = GoBuildSource(hack=tmp_path)
    first = source.digest(part)
    assert first == source.digest(part)
    assert first != source.digest(dataclasses.replace(part, cgo=True))
    (tmp_path / "parts/hello/go.sum").write_text("x")
    assert first != source.digest(part)


def with_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Part:
    write_program(tmp_path / "bin/go", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return write_module(tmp_path, HELLO)


async def test_a_blip_of_the_network_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = with_go(
        tmp_path,
        monkeypatch,
        f"echo x >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -ge 2 ] || {{ echo 'read: i/o timeout'; exit 1; }}",
    )
    await GoBuildSource(hack=tmp_path, retry_delay_s=0).fetch(part, tmp_path / "out")
    assert (tmp_path / "calls").read_text() == "x\nx\n"


async def test_a_lasting_blip_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = with_go(tmp_path, monkeypatch, f"echo x >> {tmp_path}/calls; echo 'read: i/o timeout'; exit 1")
    with pytest.raises(TerminalError, match="i/o timeout"):
        await GoBuildSource(hack=tmp_path, retry_delay_s=0).fetch(part, tmp_path / "out")
    assert (tmp_path / "calls").read_text() == "x\nx\nx\n"


async def test_the_environment_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = with_go(tmp_path, monkeypatch, f'echo "$CGO_ENABLED|$GOFLAGS|$GOWORK" > {tmp_path}/env')
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    await GoBuildSource(hack=tmp_path).fetch(part, tmp_path / "out")
    assert (tmp_path / "env").read_text() == "0||off\n"


async def test_without_go_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = write_module(tmp_path, HELLO)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFoundError, match=r"go is not installed: install Go 1\.26"):
        await GoBuildSource(hack=tmp_path).fetch(part, tmp_path / "out")


async def test_without_a_module_the_part_is_not_supported(tmp_path: Path) -> None:
    source = GoBuildSource(hack=tmp_path)
    assert not source.supports(TOOL)
    with pytest.raises(NotFoundError, match="no pinned module for tool"):
        await source.fetch(TOOL, tmp_path / "out")


async def test_a_c_program_is_compiled_from_its_modules_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_go(tmp_path, monkeypatch, f"""[ "$1" = list ] && echo '{{"Dir": "{tmp_path}/source"}}'; true""")
    (tmp_path / "source/cmd").mkdir(parents=True)
    source = '#include <stdio.h>\n\nint main(void) { fputs("from C", stderr); return 0; }\n'
    (tmp_path / "source/cmd/main.c").write_text(source)
    part = CPart("said", "v1.0.0", "parts/hello", "example.test/c", source="cmd/main.c")
    await GoBuildSource(hack=tmp_path).fetch(part, tmp_path / "said")
    assert errors_of(tmp_path / "said") == b"from C"


async def test_a_module_that_go_cannot_find_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_go(tmp_path, monkeypatch, "[ \"$1\" = list ] && echo '{}'; true")
    with pytest.raises(TerminalError, match="named no directory: KeyError"):
        await find_module("example.test/c", pinned_by=tmp_path)
    write_program(tmp_path / "bin/go", "echo 'no such module'; exit 1")
    with pytest.raises(TerminalError, match=r"fetching the module example\.test/c: (.|\n)*no such module"):
        await find_module("example.test/c", pinned_by=tmp_path)
