"""The panel in applications that Next.js and Vite really build, from the lines of docs/component.md (make soak)."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page

from tests.servers.chromium import eventually, shows, visit, well
from tests.servers.npm import install
from tests.servers.ports import free_port
from tests.servers.stats_double import StatsDouble

pytestmark = [
    pytest.mark.soak,
    pytest.mark.needs("chromium", "node"),
    pytest.mark.asyncio(loop_scope="module"),
]

STATIC = Path(str(resources.files("exporter.web"))) / "static"
DOCS = Path(__file__).parents[2] / "docs" / "component.md"
SHIPPED = ("messaging-stats.js", "messaging-stats.d.ts", "messaging-stats-react.tsx")
REACT = ("react@19", "react-dom@19", "@types/react@19", "@types/react-dom@19", "typescript@5")
INDEX = """<!doctype html><html lang="en"><head><title>App</title><link rel="icon" href="data:,"></head>
<body><div id="root"></div><script type="module" src="/src/main.%s"></script></body></html>"""
TSCONFIG = """{"compilerOptions": {"strict": true, "noEmit": true, "jsx": "react-jsx", "module": "esnext",
  "moduleResolution": "bundler", "target": "es2022", "lib": ["es2022", "dom"], "skipLibCheck": false, "types": []},
  "include": ["src"]}"""


def documented(path: str, server: str) -> str:
    """The block of the documentation that is this file, with the tests' server in place of the usual one."""
    blocks = re.findall(r"^```\w+\n(?:// |<!-- )(\S+)(?: -->)?\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = [text for name, text in blocks if name == path]
    return text.replace("http://127.0.0.1:8765", server)


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def ship(folder: Path) -> None:
    put(folder, {name: (STATIC / name).read_text() for name in SHIPPED})


async def run(folder: Path, *command: str, **environment: str) -> None:
    """A build step: what it says when it fails."""
    done = await asyncio.to_thread(
        subprocess.run,
        [str(folder / "node_modules" / ".bin" / command[0]), *command[1:]],
        cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def serving(folder: Path, url: str, *command: str, **environment: str) -> AsyncIterator[None]:
    """A server of the framework's own, until it answers; ended at the end."""
    binary = folder / "node_modules" / ".bin" / command[0]
    process = await asyncio.create_subprocess_exec(
        binary, *command[1:], cwd=folder, env={**os.environ, **environment}, process_group=0,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def answers() -> bool:
        assert process.returncode is None, "it ended"
        try:
            async with aiohttp.ClientSession() as session, session.get(url):
                return True
        except aiohttp.ClientError:
            return False

    try:
        await eventually(answers, f"{command[0]} answers")
        yield
    finally:
        os.killpg(process.pid, 9)
        await process.wait()


async def token_for(page: Page, double: StatsDouble, path: str) -> None:
    """The application's own backend, where the test has none."""
    await page.route(f"**{path}", lambda route: route.fulfill(body=double.token(), content_type="text/plain"))


async def test_nextjs_builds_it_serves_it_and_writes_no_token_into_any_html(
    browser: Browser, double: StatsDouble, tmp_path: Path
) -> None:
    await asyncio.to_thread(install, tmp_path, "next@16", "@types/node@22", *REACT)
    ship(tmp_path)
    put(
        tmp_path,
        {
            "next.config.mjs": documented("next.config.mjs", double.url),
            "app/layout.tsx": "export default function Layout({ children }: { children: React.ReactNode })"
            ' { return <html lang="en"><body>{children}</body></html>; }',
            "app/admin/page.tsx": 'import { Panel } from "./panel";\n'
            "export default function Admin() { return <main><h1>Admin</h1><Panel /></main>; }",
            "app/admin/panel.tsx": documented("app/admin/panel.tsx", double.url),
            "app/admin/token/route.ts": documented("app/admin/token/route.ts", double.url),
        },
    )
    token, port = double.token(), free_port()
    quiet = {"NEXT_TELEMETRY_DISABLED": "1", "CI": "1", "STATS_TOKEN": token}
    await run(tmp_path, "next", "build", **quiet)
    url = f"http://127.0.0.1:{port}"
    async with serving(tmp_path, f"{url}/admin", "next", "start", "-H", "127.0.0.1", "-p", str(port), **quiet):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/admin") as answer:
            html = await answer.text()
        assert "Admin" in html
        assert token not in html
        async with visit(browser) as seen:
            await seen.context.add_cookies([{"name": "session", "value": "mine", "url": url}])
            await seen.page.goto(f"{url}/admin")
            await well(seen.page)
            await shows(seen.page.locator("[data-figure=active_connections] .number"), "1,240")
            assert token not in await seen.page.content()
    written = [path for path in (tmp_path / ".next").rglob("*") if path.is_file()]
    assert not [path for path in written if token.encode() in path.read_bytes()]


async def test_vite_and_react_build_it_under_strict_types_and_its_proxy_serves_it(
    browser: Browser, double: StatsDouble, tmp_path: Path
) -> None:
    await asyncio.to_thread(install, tmp_path, "vite@8", "@vitejs/plugin-react", *REACT)
    ship(tmp_path / "src")
    main = """import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { Admin } from './Admin';
createRoot(document.getElementById('root')!).render(<StrictMode><Admin /></StrictMode>);
"""
    put(
        tmp_path,
        {
            "index.html": INDEX % "tsx",
            "src/main.tsx": main,
            "src/Admin.tsx": documented("src/Admin.tsx", double.url),
            "vite.config.ts": documented("vite.config.ts", double.url),
            "tsconfig.json": TSCONFIG,
        },
    )
    await run(tmp_path, "tsc", "-p", ".")
    await run(tmp_path, "vite", "build")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = ("vite", "--host", "127.0.0.1", "--port", str(port), "--strictPort")
    async with serving(tmp_path, url, *command), visit(browser) as seen:
        await token_for(seen.page, double, "/my/admin-token")
        await seen.page.goto(url)
        await well(seen.page)
        await shows(seen.page.locator("h1").first, "1240 connected")
        assert await seen.page.title() == "Admin"
        assert double.token() not in await seen.page.content()


async def test_vite_and_vue_build_it_and_its_proxy_serves_it(
    browser: Browser, double: StatsDouble, tmp_path: Path
) -> None:
    await asyncio.to_thread(install, tmp_path, "vite@8", "@vitejs/plugin-vue", "vue@3")
    ship(tmp_path / "src")
    main = """import { createApp } from 'vue';
import Messaging from './Messaging.vue';
fetch('/my/admin-token').then((answer) => answer.text())
  .then((token) => createApp(Messaging, { token }).mount('#root'));
"""
    put(
        tmp_path,
        {
            "index.html": INDEX % "js",
            "src/main.js": main,
            "src/Messaging.vue": documented("src/Messaging.vue", double.url),
            "vite.config.js": documented("vite.config.js", double.url),
            "package.json": '{"type": "module", "private": true}',
        },
    )
    await run(tmp_path, "vite", "build")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = ("vite", "--host", "127.0.0.1", "--port", str(port), "--strictPort")
    async with serving(tmp_path, url, *command), visit(browser) as seen:
        await token_for(seen.page, double, "/my/admin-token")
        await seen.page.goto(url)
        await well(seen.page)
        await shows(seen.page.locator("[data-figure=active_connections] .number"), "1,240")
        assert double.token() not in await seen.page.content()
