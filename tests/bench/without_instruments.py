"""The product with its instruments cut out, to see what they cost. A launcher of the bench; the product has no switch.

``python -m tests.bench.without_instruments serve …`` is ``messaging-exporter serve …``, but whatever module of
``exporter`` is imported first loses every statement that only counts: calls of ``.count(…)``, ``.observe(…)`` and
``.time(…)`` and ``.handled(…)``, and ``….value += …``. What is computed for them alone goes with them.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
import types
from collections.abc import Sequence

CALLS = {"count", "observe", "time", "handled"}
KEPT = ("exporter.metrics.instruments", "exporter.core.recount")


class Cut(ast.NodeTransformer):
    """Takes the counting statements out and leaves ``pass`` where nothing else stood."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CALLS:
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if isinstance(node.target, ast.Attribute) and node.target.attr == "value":
            return ast.copy_location(ast.Pass(), node)
        return node


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module without its counting statements, and caches nothing."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        if fullname not in KEPT:
            tree = ast.fix_missing_locations(Cut().visit(tree))
        return compile(tree, path, "exec", dont_inherit=True)


class Finder(importlib.machinery.PathFinder):
    """Gives the modules of ``exporter`` to that loader."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = super().find_spec(fullname, path, target)
        if fullname.partition(".")[0] != "exporter" or spec is None or spec.origin is None:
            return None
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(fullname, spec.origin)
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder)
    from exporter.cli import main

    sys.exit(main())
