"""``doctor``: is everything there that ``serve`` needs? Looks and changes nothing. May import all but cli and demo.

Each part is examined by a module of its own, which returns findings; one that cannot be examined costs only itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from exporter.core.errors import Misconfigured, missing_extra, os_problem
from exporter.doctor import broker, configuration, database, machine, proxy, workers
from exporter.doctor.findings import Finding, Outcome
from exporter.settings.model import Settings

__all__ = ["Finding", "Outcome", "examine", "page", "status"]

Examination = Callable[[Settings], Awaitable[list[Finding]]]
EXAMINATIONS: tuple[tuple[str, Examination], ...] = (
    ("configuration", configuration.examine),
    ("database", database.examine),
    ("broker", broker.examine),
    ("workers", workers.examine),
    ("machine", machine.examine),
)


async def examine(settings: Settings, url: str | None = None, token: str | None = None) -> list[Finding]:
    """All findings for these settings; with ``url``, what comes through to the server there as well.

    ``token`` is an admin's, for a server whose tokens are signed elsewhere; without it one is signed here.
    """
    findings: list[Finding] = []
    for subject, examination in EXAMINATIONS:
        findings += await _safely(subject, examination(settings))
    if url is not None:
        findings += await _safely("proxy", proxy.examine(settings, url, token))
    return findings


async def _safely(subject: str, examination: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await examination
    except ModuleNotFoundError as error:
        said = missing_extra(error)
        if said is None:
            raise
        return [Finding(subject, Outcome.FAILED, said)]
    except Misconfigured as error:
        return [Finding(subject, Outcome.UNKNOWN, str(error))]
    except OSError as error:
        return [Finding(subject, Outcome.UNKNOWN, f"could not be examined: {os_problem(error)}")]
    except Exception as error:  # a defect of ours must not hide what the others found
        return [Finding(subject, Outcome.UNKNOWN, f"could not be examined: {type(error).__name__}")]


def page(findings: list[Finding]) -> Iterator[str]:
    """The lines to print: a line for each finding, what to do below those that are not well, and a sum."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        yield f"{finding.outcome.value:7}  {finding.subject:{width}}  {finding.text}"
        if finding.advice:
            yield f"{'':7}  {'':{width}}  {finding.advice}"
    counts = {outcome: sum(finding.outcome is outcome for finding in findings) for outcome in Outcome}
    parts = [f"{count} {outcome.value}" for outcome, count in counts.items() if count and outcome is not Outcome.NONE]
    yield ""
    yield ", ".join(parts)


def status(findings: list[Finding]) -> int:
    """0: nothing keeps the server from working; 1: something does; 2: something could not be examined."""
    outcomes = {finding.outcome for finding in findings}
    return 1 if Outcome.FAILED in outcomes else 2 if Outcome.UNKNOWN in outcomes else 0
