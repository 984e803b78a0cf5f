"""This package as a wheel, for projects whose bentos are to carry it."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackagePath, distribution
from pathlib import Path, PurePosixPath
from typing import Final

from e2i_serving.exceptions import ConfigurationError

PACKAGE: Final = "e2i-serving"

WHEELS: Final = "wheels"
"""The folder of a project that holds them."""

_OF_AN_INSTALLATION: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""Files beside a package's metadata that an installer wrote, and no wheel has."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the wheel, so that equal installations make equal wheels."""


def requirement_for(folder: Path, wheel: Path | None, extras: Iterable[str]) -> str:
    """The lines by which a project requires this package; its wheel is put into the project where there is one.

    A package that came from an index is required by its version. One that was installed from a file or a folder is
    put together again, as a wheel.

    Args:
        folder: The project's folder.
        wheel: A wheel to take instead.
        extras: The extras that are needed.

    Raises:
        ConfigurationError: The wheel is none of this package.
        OSError: The folder can't be written to.
    """
    wanted = f"[{','.join(sorted(extras))}]" if extras else ""
    if wheel is not None:
        if not (wheel.is_file() and wheel.name.startswith("e2i_serving-") and zipfile.is_zipfile(wheel)):
            raise ConfigurationError(f"{wheel} is no wheel of {PACKAGE}. Name one that was built by `make wheel`.")
        content = wheel.read_bytes()
        _place(folder, wheel.name).write_bytes(content)
        return _carried(wheel.name, wanted)
    installed = distribution(PACKAGE)
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if not origin or is_editable():
        return f"{PACKAGE}{wanted}=={installed.version}"
    name = f"e2i_serving-{installed.version}-py3-none-any.whl"
    _pack(installed, _place(folder, name))
    return _carried(name, wanted)


def drop_wheels(folder: Path, requirement: str) -> None:
    """Delete the project's wheels of this package that nothing requires any more.

    Args:
        folder: The project's folder.
        requirement: The lines by which it requires this package now; what they name stays, as does what a text file
            beside names, for its owner may have kept that one.

    Raises:
        OSError: The folder can't be written to.
    """
    beside = (path for ending in ("*.txt", "*.toml", "*.yaml") for path in folder.glob(ending))
    required = "\n".join([requirement, *(path.read_text(encoding="utf-8", errors="replace") for path in beside)])
    for wheel in (folder / WHEELS).glob("e2i_serving-*.whl"):
        if wheel.name not in required:
            wheel.unlink()


def is_editable() -> bool:
    """Whether this package is installed from a source tree that it stays in."""
    origin = json.loads(distribution(PACKAGE).read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _carried(name: str, wanted: str) -> str:
    # BentoML's reader of requirements can't take extras behind a path; installers put both lines together.
    return f"./wheels/{name}\n{PACKAGE}{wanted}" if wanted else f"./wheels/{name}"


def _place(folder: Path, name: str) -> Path:
    """Where the project's wheel is to be."""
    wheels = folder / WHEELS
    wheels.mkdir(parents=True, exist_ok=True)
    return wheels / name


def _pack(installed: Distribution, target: Path) -> None:
    files = sorted(path for path in installed.files or () if _belongs(path))
    record_name = next(str(path.parent / "RECORD") for path in files if path.name == "METADATA")
    record = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            content = path.read_binary()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{path.as_posix()},sha256={digest},{len(content)}\n")
            _add(archive, path.as_posix(), content)
        _add(archive, record_name, "".join([*record, f"{record_name},,\n"]).encode())


def _belongs(path: PackagePath) -> bool:
    is_inside = ".." not in path.parts and not PurePosixPath(path).is_absolute()
    is_made = "__pycache__" in path.parts or (path.parent.suffix == ".dist-info" and path.name in _OF_AN_INSTALLATION)
    return is_inside and not is_made


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
