"""The public surface is what it says it is."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from types import ModuleType

import pytest

import e2i_serving

PACKAGES = ["e2i_serving"] + [
    module.name for module in pkgutil.iter_modules(e2i_serving.__path__, "e2i_serving.") if module.ispkg
]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    """The package and each of its layers."""
    return importlib.import_module(request.param)


def test_all_is_complete(package: ModuleType) -> None:
    """Each name in ``__all__`` exists, once, and ``dir`` lists it."""
    names = getattr(package, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(package, name, None) is not None, f"{package.__name__}.{name}"
        assert name in dir(package)


def test_public_names_are_documented(package: ModuleType) -> None:
    """Each public class and function has a docstring, and so has each package."""
    assert package.__doc__
    for name in getattr(package, "__all__", []):
        member = getattr(package, name)
        if callable(member) and (getattr(member, "__module__", None) or "").startswith("e2i_serving"):
            assert member.__doc__, f"{package.__name__}.{name}"


def test_top_level_names_are_stable() -> None:
    """A name that isn't public is refused as any module refuses it."""
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(e2i_serving, "no_such_name")  # noqa: B009  # a plain attribute is what mypy refuses


def test_version_is_the_installed_one() -> None:
    """The version in the code is the one that was installed."""
    assert importlib.metadata.version("e2i-serving") == e2i_serving.__version__
