"""The files of deploy/ that nothing here can run as they are: each by the tool that reads its kind, and by its meaning.

The proxies' files are in test_proxies.py, the unit of systemd in test_systemd.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from exporter.settings.options import BY_NAME
from tests.deploy.proxies import DEPLOY, command
from tests.servers.exporter import ROOT, running

BIN = Path(sys.executable).parent
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ELSEWHERE = {"Kustomization", "ServiceMonitor", "PrometheusRule"}
"""Kinds that are no part of Kubernetes itself, so that its schemas do not know them."""
COMPOSE = DEPLOY / "compose"


def passes(*words: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a tool; what it says is the failure."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def manifests() -> dict[str, dict[str, Any]]:
    """Every manifest of Kubernetes by its kind; there is one of each."""
    found = [yaml.safe_load(path.read_text()) for path in KUBERNETES]
    return {manifest["kind"]: manifest for manifest in found}


def variables(text: str) -> set[str]:
    return set(re.findall(r"\bMESSAGING_[A-Z_]+[A-Z]\b", text))


# --- all of them ---------------------------------------------------------------------------------------------


def test_every_yaml_file_is_tidy() -> None:
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable, truthy: {check-keys: false},"
    rules += " octal-values: disable, braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1},"
    rules += " comments-indentation: disable}}"
    tidy = [path for path in DEPLOY.rglob("*.y*ml") if path.name != "prometheusrule.yaml"]  # made, from linted rules
    passes(BIN / "yamllint", "--strict", "--config-data", rules, *tidy)


def test_every_variable_that_a_file_sets_is_one_of_the_program() -> None:
    known = {option.variable for option in BY_NAME.values()} | {"MESSAGING_CONFIG_FILE"}
    for path in (path for path in DEPLOY.rglob("*") if path.is_file()):
        assert variables(path.read_text()) <= known, path


# --- the image -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint has no wheel for this machine")
def test_the_dockerfile_passes_its_linter() -> None:
    # DL3008: Debian keeps only the latest of each package, so that a pinned one cannot be installed next month.
    passes(BIN / "hadolint", "--ignore", "DL3008", DEPLOY / "Dockerfile")


def test_what_the_image_copies_is_in_its_context_and_nothing_else_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()}
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize(
    "flags",
    [(), ("--web.external-url", "https://chat.example.com/messaging"), ("--web.metrics-listen-address", "127.0.0.1:0")],
)
async def test_a_container_is_healthy_whatever_is_set_of_its_addresses(flags: tuple[str, ...], tmp_path: Path) -> None:
    (check,) = re.findall(r"^ *CMD (\[\"python\".*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    async with running(tmp_path, *flags, ready=False) as exporter:  # its readiness may be elsewhere
        port = str(urlsplit(exporter.url).port)
        await asyncio.to_thread(passes, *(word.replace("8765", port) for word in json.loads(check)))


# --- compose -------------------------------------------------------------------------------------------------


def test_compose_is_what_its_specification_says() -> None:
    passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE / "compose.yml")


def test_compose_mounts_only_what_is_there_or_what_its_script_makes(tmp_path: Path) -> None:
    shutil.copy(COMPOSE / "secrets.sh", tmp_path)
    passes("sh", tmp_path / "secrets.sh")
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    passes("sh", tmp_path / "secrets.sh")  # and leaves alone what it has made
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    compose = yaml.safe_load((COMPOSE / "compose.yml").read_text())
    assert {secret["file"] for secret in compose["secrets"].values()} == {f"secrets/{name}" for name in made}
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert f"messaging:{made['database.password']}@postgres/" in made["settings.yml"]
    assert len(made["auth.secret"]) == 64
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (COMPOSE / source).exists(), volume


@pytest.mark.needs("promtool", "alertmanager")
def test_prometheus_and_alertmanager_take_what_compose_gives_them(tmp_path: Path) -> None:
    """At the places where they find it in their containers."""
    shutil.copy(COMPOSE / "prometheus.yml", tmp_path)
    shutil.copytree(ROOT / "grafana" / "rules", tmp_path / "rules", ignore=shutil.ignore_patterns("tests"))
    passes("promtool", "check", "config", tmp_path / "prometheus.yml")
    passes("amtool", "check-config", ROOT / "grafana" / "alertmanager.yml")


@pytest.mark.needs("haproxy")
def test_the_proxy_of_compose_is_the_documented_one_for_other_addresses(tmp_path: Path) -> None:
    ours, documented = (
        set(re.sub(r"server .*", "server", path.read_text()).splitlines())
        for path in (COMPOSE / "haproxy.cfg", DEPLOY / "haproxy" / "haproxy.cfg")
    )
    assert {line.strip() for line in documented - ours} == {
        "# HAProxy in front of two nodes. Start the nodes with --web.trusted-proxies=127.0.0.1."
    }
    passes(*command("haproxy", COMPOSE / "haproxy.cfg", tmp_path, check=True))


# --- Kubernetes ----------------------------------------------------------------------------------------------


def test_kubernetes_takes_the_manifests() -> None:
    paths = [path for path in KUBERNETES if yaml.safe_load(path.read_text())["kind"] not in ELSEWHERE]
    passes(BIN / "kubernetes-validate", "--strict", *paths)


def test_kustomize_lists_every_manifest() -> None:
    listed = manifests()["Kustomization"]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == [path.name for path in KUBERNETES]


def test_the_manifests_fit_each_other() -> None:
    found = manifests()
    pod = found["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    [container] = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert found["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == found["Service"]["metadata"]["labels"]
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == ports
    assert {
        container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    } <= ports
    served = {endpoint["port"] for endpoint in found["ServiceMonitor"]["spec"]["endpoints"]}
    assert served <= {port["name"] for port in found["Service"]["spec"]["ports"]}
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    [volume] = [volume for volume in pod["spec"]["volumes"] if "secret" in volume]
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod["spec"]["terminationGracePeriodSeconds"] > 5 + 10  # preStop and --drain.timeout


def test_a_pod_may_do_nothing_that_it_need_not() -> None:
    """The restricted Pod Security Standard, and a root file system that nothing can be written to."""
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.needs("promtool")
def test_the_operator_gets_the_rules_that_are_proved(tmp_path: Path) -> None:
    groups = manifests()["PrometheusRule"]["spec"]["groups"]
    proved = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((ROOT / "grafana" / "rules" / name).read_text())["groups"]
    ]
    assert groups == proved, "run make docs"
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    passes("promtool", "check", "rules", tmp_path / "rules.yml")


# --- hosted CI -----------------------------------------------------------------------------------------------


def test_the_workflow_is_one_and_runs_what_anybody_can_run() -> None:
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)
    steps = [
        step.get("run", "") for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]
    ]
    assert "bash .ci/run" in steps
    makefile = (ROOT / "Makefile").read_text()
    for step in steps:
        for target in re.findall(r"^make ([a-z-]+)$", step):
            assert f"\n{target}:" in makefile


def test_the_forms_of_issues_are_forms() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert forms
    passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)
