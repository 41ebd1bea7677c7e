"""PromQL taken apart for the tests of dashboards, rules and runbooks: which metrics, within what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser as p

# Prometheus makes these itself; every other metric must be one that the server exposes.
OF_PROMETHEUS = {"up", "ALERTS", "ALERTS_FOR_STATE", "scrape_duration_seconds", "scrape_samples_scraped"}
SPEEDS = ("rate", "irate", "increase", "changes", "resets")


@dataclass(frozen=True)
class Use:
    """One metric in a query: its matchers as text, and what stands around it, innermost first."""

    metric: str
    matchers: frozenset[str]
    ranged: bool
    functions: tuple[str, ...]
    aggregation: str | None
    """The innermost one around it."""
    by: frozenset[str]
    """The labels that the innermost aggregation keeps, when it says so."""
    without: frozenset[str]
    """The labels that the innermost aggregation leaves out, when it says so."""


def readable(expr: str) -> str:
    """Grafana's variables replaced by what Grafana could put there, as the parser knows only PromQL."""
    text = expr.replace("$__rate_interval", "5m").replace("$job", ".+").replace("$instance", ".+")
    assert "$" not in text, f"an unknown variable: {expr}"
    return text


def parsed(expr: str) -> p.Expr:
    """The query's tree; a query that does not parse or does not fit its functions' types fails."""
    try:
        tree: p.Expr = p.parse(readable(expr))
    except ValueError as error:
        raise AssertionError(f"{expr}: {error}") from None
    return tree


def uses(expr: str) -> list[Use]:
    """Every metric of a query."""
    return list(_uses(parsed(expr), (), None, frozenset(), frozenset()))


def _uses(
    node: object,
    functions: tuple[str, ...],
    aggregation: str | None,
    by: frozenset[str],
    without: frozenset[str],
    ranged: bool = False,
) -> Iterator[Use]:
    match node:
        case p.VectorSelector():
            matchers = [*node.matchers.matchers]
            name = node.name or next((m.value for m in matchers if m.name == "__name__"), "")
            texts = frozenset(re.sub(r'"\^\(\?:(.*)\)\$"', r'"\1"', str(m)) for m in matchers)
            yield Use(name, texts, ranged, functions, aggregation, by, without)
        case p.MatrixSelector():
            yield from _uses(node.vector_selector, functions, aggregation, by, without, True)
        case p.SubqueryExpr():
            yield from _uses(node.expr, functions, aggregation, by, without, True)
        case p.Call():
            for argument in node.args:
                yield from _uses(argument, (node.func.name, *functions), aggregation, by, without)
        case p.AggregateExpr():
            labels = frozenset(node.modifier.labels) if node.modifier is not None else frozenset()
            dropped = node.modifier is not None and node.modifier.type == p.AggModifierType.Without
            none: frozenset[str] = frozenset()
            by, without = (none, labels) if dropped else (labels, none)
            yield from _uses(node.expr, functions, str(node.op), by, without)
        case p.BinaryExpr():
            yield from _uses(node.lhs, functions, aggregation, by, without)
            yield from _uses(node.rhs, functions, aggregation, by, without)
        case p.ParenExpr() | p.UnaryExpr():
            yield from _uses(node.expr, functions, aggregation, by, without)
        case p.NumberLiteral() | p.StringLiteral():
            pass
        case _:
            raise AssertionError(f"an unknown part of a query: {type(node)}")


def metrics(expr: str) -> set[str]:
    """The names of a query's metrics; a regular expression on ``__name__`` stands as it is."""
    return {use.metric for use in uses(expr)}


def family(sample: str, known: set[str]) -> str | None:
    """The family that a sample's name belongs to: ``x_bucket``, ``x_count``, ``x_sum`` to the histogram ``x``."""
    if sample in known:
        return sample
    for suffix in ("_bucket", "_count", "_sum"):
        if sample.endswith(suffix) and sample.removesuffix(suffix) in known:
            return sample.removesuffix(suffix)
    return None
