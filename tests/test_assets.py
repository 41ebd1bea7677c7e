"""The assets: complete, out of the installed package, and usable where they were written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from exporter import assets

ROOT = Path(__file__).parents[1]
GRAFANA = ROOT / "grafana"
PROVIDER = Path("provisioning/dashboards/messaging.yml")


def wanted() -> set[Path]:
    """What the folder has that users need, everything but the sources, and the panel for their own pages."""
    kinds = {".json", ".md", ".yml"}
    found = {path.relative_to(GRAFANA) for path in GRAFANA.rglob("*") if path.suffix in kinds}
    component = {Path("component", name) for name in assets.COMPONENT}
    return {path for path in found if path.parts[0] != "source"} | component


def test_everything_that_users_need_is_written_and_nothing_else(tmp_path: Path) -> None:
    written = assets.write(tmp_path / "new" / "folder")
    assert {path.relative_to(tmp_path / "new" / "folder") for path in written} == wanted()
    assert all(path.is_file() for path in written)
    assert {path for path in (tmp_path / "new").rglob("*") if path.is_file()} == set(written)


def test_the_files_are_those_of_the_repository_but_for_the_folder_they_are_in(tmp_path: Path) -> None:
    for path in assets.write(tmp_path):
        name = path.relative_to(tmp_path)
        if name.parts[0] == "component":
            assert path.read_bytes() == (ROOT / "exporter" / "web" / "static" / name.name).read_bytes()
        elif name != PROVIDER:
            assert path.read_bytes() == (GRAFANA / name).read_bytes()


@pytest.mark.parametrize("name", ["plain", "with a blank", 'quote"d: #1', "dollar $HOME", "ünïcode"])
def test_grafana_finds_the_dashboards_whatever_the_folder_is_called(name: str, tmp_path: Path) -> None:
    assets.write(tmp_path / name)
    provider = yaml.safe_load((tmp_path / name / PROVIDER).read_text())["providers"][0]
    path = provider["options"]["path"].replace("$$", "$")  # Grafana replaces variables; $$ is a dollar
    assert Path(path) == tmp_path / name / "dashboards"
    assert len(list(Path(path).glob("*.json"))) == len(list((GRAFANA / "dashboards").glob("*.json")))


def test_a_relative_folder_is_written_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assets.write(Path("here"))
    provider = yaml.safe_load(Path("here", PROVIDER).read_text())["providers"][0]
    assert provider["options"]["path"] == str(tmp_path / "here" / "dashboards")


def test_writing_again_brings_changed_files_back_and_leaves_the_user_s_own(tmp_path: Path) -> None:
    first = assets.write(tmp_path)
    changed = tmp_path / "rules" / "alerts.yml"
    before = changed.read_text()
    changed.write_text("groups: []\n")
    own = tmp_path / "rules" / "own.yml"
    own.write_text("groups: []\n")
    assert assets.write(tmp_path) == first
    assert changed.read_text() == before
    assert own.exists()


def test_what_the_written_pages_link_to_was_written(tmp_path: Path) -> None:
    """Whoever publishes them has no clone beside them."""
    written = {path.resolve() for path in assets.write(tmp_path)}
    links = {
        (page.parent / link).resolve()
        for page in written
        if page.suffix == ".md"
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    }
    assert links
    assert links <= written, links - written


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("base", ["https://wiki.example/team/runbooks/", "https://wiki.example/view?page="])
def test_the_alerts_link_to_the_user_s_own_copies_of_the_runbooks_and_their_proofs_hold(
    base: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "exporter", "assets", "--output", str(tmp_path), "--runbooks", base]
    subprocess.run(command, check=True, timeout=400, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    groups = yaml.safe_load((tmp_path / "rules" / "alerts.yml").read_text())["groups"]
    links = {rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert links == {f"{base.rstrip('/')}/{path.name}" for path in (tmp_path / "runbooks").glob("*.md")}
    proof = str(tmp_path / "rules" / "tests" / "MessagingDown.yml")
    done = subprocess.run(["promtool", "test", "rules", proof], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("base", ["runbooks", "https://a b", "https://x/{{ $value }}", "https://x/#'", ""])
def test_a_place_of_runbooks_that_is_no_url_is_one_line_and_nothing_is_written(base: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "assets", "--output", str(tmp_path / "new"), "--runbooks", base],
        capture_output=True, text=True, timeout=400, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("messaging-exporter: --runbooks: expected a URL")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.needs("promtool")
def test_prometheus_takes_the_example_from_where_it_was_written(tmp_path: Path) -> None:
    assets.write(tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "rules/alerts.yml" in done.stdout.replace(str(tmp_path), "")


def test_a_place_that_cannot_be_written_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "assets", "--output", str(tmp_path / "file" / "below")],
        capture_output=True, text=True, timeout=400, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip does, from a copy, so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    (copy / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "messaging-exporter.1", copy / "docs")  # the manual page, which an installation brings
    for name in ("exporter", "grafana"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(copy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "would be ignored" not in done.stdout + done.stderr, "setuptools does not know a folder with files"
    (found,) = folder.glob("*.whl")
    return found


def test_a_wheel_holds_every_asset_once_and_no_source_of_them(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if "grafana" in name]
    assert sorted(names) == sorted(
        f"exporter/grafana/{path.as_posix()}" for path in wanted() if path.parts[0] != "component"
    )
    for name in assets.COMPONENT:
        assert zipfile.ZipFile(wheel).namelist().count(f"exporter/web/static/{name}") == 1


def test_a_wheel_holds_every_module_of_the_package(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "exporter").rglob("*.py")}
    assert {name for name in ours if not name.startswith("exporter/grafana/")} <= held


def test_the_installed_command_writes_what_a_clone_writes(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "from exporter.cli import main; import exporter; print(exporter.__file__, flush=True); main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "assets", "--output", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=400, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(site / "exporter" / "__init__.py")
    assets.write(tmp_path / "clone")
    for path in wanted() - {PROVIDER}:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "clone" / path).read_bytes()
