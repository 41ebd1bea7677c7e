"""The versions that setup.cfg promises: what was tested is among them, and no lower bound goes untried."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.platforms.versions import REPOSITORY, direct, pins, untried


def test_what_was_tested_is_what_is_asked_for() -> None:
    tested = pins((REPOSITORY / "constraints.txt").read_text())
    outside = [
        f"{requirement}: {tested.get(canonicalize_name(requirement.name))}"
        for requirement in direct()
        if not requirement.specifier.contains(tested.get(canonicalize_name(requirement.name), Version("0")))
    ]
    assert not outside, "run make constraints"


def test_a_lower_bound_that_nothing_proves_is_named() -> None:
    asked = [Requirement(line) for line in ("a>=1,<2", "b>=1.2", "c==3", "d", "E_f>=2")]
    installed = {
        "a": Version("1.0"),
        "b": Version("1.3"),
        "c": Version("3.0.0"),
        "d": Version("1"),
        "e-f": Version("2"),
    }
    assert untried(asked, installed) == ["b>=1.2 (tried with 1.3)", "d (tried with 1)"]


def test_every_dependency_has_a_lower_bound() -> None:
    assert [str(asked) for asked in direct() if not {part.operator for part in asked.specifier} & {">=", "=="}] == []
