"""What ships beside the component for those who build pages: it loads in Node, its types hold under ``--strict``."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from exporter.node.history import REASONS

pytestmark = pytest.mark.needs("node")

STATIC = Path(str(resources.files("exporter.web"))) / "static"
SHIPPED = ("messaging-stats.js", "messaging-stats.d.ts", "messaging-stats-react.tsx")
IN_REACT = """
import { useState } from 'react';
import './messaging-stats.js';
import { MessagingStats, useMessagingStats, type Stats } from './messaging-stats-react';

export function Raw({ token }: { token: string }) {
  const [seen, setSeen] = useState<number | null>(null);
  return <main className="mine">
    <p onClick={() => setSeen(1)}>{seen}</p>
    <messaging-stats src="/v1/messaging/stats" token={token} refresh={2} className="wide" labels={{ now: 'Jetzt' }}
      onmessaging-stats-update={(event) => setSeen(event.detail.active_connections)}
      onmessaging-stats-denied={(event) => alert(event.detail.reason.toUpperCase())}
      ref={(panel) => { if (panel) panel.refresh = 3; }} />
  </main>;
}

export function Hooked() {
  const { stats, status, error } = useMessagingStats('/v1/messaging/stats', async () => 'token');
  const latest: Stats | null = stats;
  const sent: number | null | undefined = latest?.active_users['7d'];
  return <MessagingStats url="/v1/messaging/stats" token={() => 'token'} onUpdate={(figures) => figures.nodes}
    className={`${status} ${sent} ${error?.message}`} />;
}

// @ts-expect-error the element's attributes are typed
export const misspelt = <messaging-stats refresh="soon" />;
// @ts-expect-error a label that the panel does not have
export const unlabelled = <messaging-stats labels={{ nowt: 'Jetzt' }} />;
// @ts-expect-error React's own types still hold: they are added to, not replaced
export const react = <p id={3} />;
// @ts-expect-error a figure may be null
export const total = (stats: Stats): number => stats.total_messages;
"""
WITHOUT_REACT = """
import { LABELS, MessagingStats, StatsClient } from './messaging-stats.js';

const panel: MessagingStats | null = document.querySelector('messaging-stats');
panel?.addEventListener('messaging-stats-state', (event) => { document.title = event.detail.brief; });
document.createElement('messaging-stats').labels = { ...LABELS, now: 'Jetzt' };
new StatsClient({ src: '/v1/messaging/stats', onChange: (what) => what.length }).start();
// @ts-expect-error seconds are a number
document.createElement('messaging-stats').refresh = 'soon';
"""


def compile_strictly(modules: Path, folder: Path, name: str, text: str, *flags: str) -> str:
    """What ``tsc --strict`` says of one file beside what ships; the libraries' own types are checked too."""
    for shipped in SHIPPED:
        (folder / shipped).write_text((STATIC / shipped).read_text())
    (folder / name).write_text(text)
    command = [str(modules / ".bin" / "tsc"), "--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom"]
    command += ["--module", "esnext", "--moduleResolution", "bundler", "--noUnusedLocals", *flags, name]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    return said.stdout + said.stderr


def test_the_module_loads_where_there_is_no_browser_and_defines_nothing_there(tmp_path: Path) -> None:
    shutil.copy(STATIC / SHIPPED[0], tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')  # Node before 22.7 does not see it by itself
    program = (
        f"const m = await import({(tmp_path / SHIPPED[0]).as_uri()!r});"
        "console.log(typeof m.MessagingStats, typeof m.StatsClient, m.LABELS.now, typeof globalThis.customElements)"
    )
    said = subprocess.run(
        ["node", "--input-type=module", "--eval", program], capture_output=True, text=True, timeout=400
    )
    assert (said.stdout.strip(), said.returncode) == ("function function Now undefined", 0), said.stderr


def test_a_react_page_compiles_strictly_and_react_keeps_its_own_types(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(modules)
    assert compile_strictly(modules, tmp_path, "page.tsx", IN_REACT, "--jsx", "react-jsx") == ""


def test_a_project_without_react_compiles_with_the_same_types(modules: Path, tmp_path: Path) -> None:
    assert not (tmp_path / "node_modules").exists()
    assert compile_strictly(modules, tmp_path, "page.ts", WITHOUT_REACT) == ""


def test_every_text_of_the_panel_is_a_key_of_the_types_and_the_other_way_round() -> None:
    module, types = ((STATIC / name).read_text() for name in SHIPPED[:2])
    texts = module[module.index("export const LABELS") : module.index("\n});\n")]
    keys = set(re.findall(r"^  '?(\w+)'?: ", texts, re.MULTILINE))
    assert keys == set(re.findall(r"'(\w+)'", types[types.index("export type LabelKey") :]))


def test_the_panel_has_a_row_and_a_text_for_every_reason_that_the_server_counts_by() -> None:
    module = (STATIC / SHIPPED[0]).read_text()
    table = re.search(r"^const REASONS = \{$.*?^\};$", module, re.MULTILINE | re.DOTALL)
    assert table is not None
    rows = {kind: re.findall(r"'(\w+)'", reasons) for kind, reasons in re.findall(r"(\w+): \[([^]]*)\]", table[0])}
    assert list(rows.values()) == list(REASONS.values())
    for kind, reasons in rows.items():
        for reason in reasons:
            assert f"\n  {kind}_{reason}: '" in module
