"""capn's own container image, from Debian's Python, pinned wheels and this very package.

Role: a node image holds it, so that a child with `spec.nesting` runs capn without a registry. What seldom changes
(Python and wheels, byte-compiled: an emulated node would compile for minutes) is kept in the cache as one tar. Inputs:
the package, its manifests, its pinned requirements. Output: an `OciImage`. Needs root, for chroot. Must not: hold
libvirt's bindings (a controller in a child claims its machines), or need a network once the tar is there.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from capn.bundle import find_shipped
from capn.image import oci
from capn.image.debian import REASON, DebianBase, ensure_base
from capn.image.rootfs import remove_path
from capn.parts.locks import file_lock
from capn.parts.process import run
from capn.parts.source import Report
from capn.settings import OWN_IMAGE

BASE = DebianBase("python", ("ca-certificates", "python3"), configured=False)
USER = "65532:65532"  # as in the Containerfile
_PYTHON = "3.11"  # of Debian bookworm
_GLIBC_MINORS = range(17, 37)  # wheels for glibc 2.17 up to bookworm's own
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_PACKAGES = "usr/lib/python3/dist-packages"
_LEFT_OUT = "libvirt-python"
_SHIPPED = ("crds", "config")
_DROPPED = (
    "boot/",
    "dev/",
    "etc/apt",
    "etc/init.d",
    "proc/",
    "sys/",
    "usr/include",
    "usr/lib/python3.11/ensurepip",
    "usr/share/",
    "var/",
)


def list_sources() -> dict[str, Path]:
    """Every file of capn that is in the image, by its path below the directory of Python's packages."""
    package = Path(__file__).resolve().parent.parent
    found = {f"capn/{path.relative_to(package)}": path for path in _walk(package)}
    for name in _SHIPPED:
        directory = find_shipped(name)
        found |= {f"capn/_{name}/{path.relative_to(directory)}": path for path in _walk(directory)}
    return dict(sorted(found.items()))


def compute_digest() -> str:
    """Hex digest of what decides the image (not of the day: Debian's packages are as new as the build)."""
    digest = hashlib.sha256(_runtime_digest().encode())
    for name, path in list_sources().items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def drop_requirement(text: str, name: str) -> str:
    """Pinned requirements with hashes without the one of this name; its continuation lines go with it."""
    kept, dropping = [], False
    for line in text.splitlines():
        if line[:1] not in {" ", "\t", "#"}:
            dropping = line.partition("==")[0].strip() == name
        if not dropping:
            kept.append(line)
    return "\n".join(kept) + "\n"


async def build_own_image(
    *, architecture: str, cache: Path, work: Path, mirror: str | None, report: Report
) -> oci.OciImage:
    """Write the layers to `work`: Python with wheels, and capn. TerminalError with the failing program's last lines."""
    runtime = await _ensure_runtime(architecture, cache=cache, mirror=mirror, report=report)
    root = work / "own"
    root.mkdir()
    await _unpack(runtime, root)
    sources = list_sources()
    for name, path in sources.items():
        target = root / _PACKAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    await _compile(root, f"{_PACKAGES}/capn")
    entries = [
        oci.LayerEntry(str(path.relative_to(root)), source=path, mode=0o644)
        for path in sorted((root / _PACKAGES / "capn").rglob("*"))
        if path.is_file()
    ]
    lower = oci.filter_layer(runtime, work / "own-runtime.tar", keep=_is_kept)
    upper = oci.write_layer([*entries, oci.LayerEntry("tmp", mode=0o1777)], work / "own-capn.tar")
    remove_path(root)
    # -P: the working directory is no place to import from; -s: nor is a home.
    start = ("/usr/bin/python3", "-P", "-s", "-m", "capn")
    return oci.OciImage(OWN_IMAGE, (lower, upper), entrypoint=start, command=("run",), user=USER)


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _read_requirements() -> str:
    return drop_requirement((find_shipped("requirements") / "controller.txt").read_text(), _LEFT_OUT)


def _runtime_digest() -> str:
    return hashlib.sha256(repr((BASE.digest(), _read_requirements(), _DROPPED, _PYTHON)).encode()).hexdigest()


async def _ensure_runtime(architecture: str, *, cache: Path, mirror: str | None, report: Report) -> Path:
    """The tar with Python and wheels, made if missing."""
    target = cache / "images" / "base" / f"own-{_runtime_digest()[:12]}.tar"
    async with file_lock(cache / "locks" / f"{target.stem}.lock", on_wait=lambda: report("capn's image: waiting")):
        if not target.is_file():
            base = await ensure_base(BASE, cache=cache, mirror=mirror, report=report)
            report("capn's image: Python and the pinned wheels")
            work = target.parent / f".work-{secrets.token_hex(4)}"
            try:
                await _make_runtime(base, architecture, work)
                (work / "runtime.tar").rename(target)
            finally:
                remove_path(work)
    return target


async def _make_runtime(base: Path, architecture: str, work: Path) -> None:
    root = work / "root"
    root.mkdir(parents=True, mode=0o755)
    await _unpack(base, root)
    requirements = work / "requirements.txt"
    requirements.write_text(_read_requirements())
    installed = await run([*_pip(architecture), f"--target={root / _PACKAGES}", f"--requirement={requirements}"])
    installed.require_success("installing the wheels of capn's own image", reason=REASON)
    remove_path(root / _PACKAGES / "bin")
    await _compile(root, "usr/lib/python3.11", _PACKAGES)
    options = ["--sort=name", "--mtime=@0", "--numeric-owner", "--owner=0", "--group=0"]
    packed = await run(["tar", "--create", *options, f"--file={work / 'runtime.tar'}", f"--directory={root}", "."])
    packed.require_success("packing Python and the wheels", reason=REASON)


def _pip(architecture: str) -> list[str]:
    """How pip is called for the image's Python and C library, whatever those of this machine are."""
    machine = _MACHINES[architecture]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", f"--python-version={_PYTHON}"),
        *("--implementation=cp", f"--platform=manylinux2014_{machine}", *platforms),
    ]


async def _compile(root: Path, *directories: str) -> None:
    """Compile by the image's own Python; never checked against times, which the layers do not keep."""
    compiled = await run(
        [
            *("/usr/sbin/chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q"),
            *("--invalidation-mode", "unchecked-hash", *(f"/{directory}" for directory in directories)),
        ]
    )
    compiled.require_success("compiling capn's own image", reason=REASON)


async def _unpack(archive: Path, root: Path) -> None:
    unpacked = await run(["tar", "--extract", "--numeric-owner", f"--file={archive}", f"--directory={root}"])
    unpacked.require_success(f"unpacking {archive.name}", reason=REASON)


def _is_kept(path: str) -> bool:
    return not path.startswith(_DROPPED) and f"{path}/" not in _DROPPED
