"""People on real WebSockets: a believable day of an organisation, in fast motion, on a running server.

Everything they were promised is written down and compared with what they got and with what is stored in the end.
Knows the outward contract only: WebSocket, HTTP routes, tokens. It imports nothing of the server but words of the wire.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress

import msgspec

from exporter import event_loop
from exporter.simulate.console import View, view_for
from exporter.simulate.options import SimulateOptions
from exporter.simulate.run import Simulation
from exporter.simulate.summary import INTERRUPTED, Summary

__all__ = ["SimulateOptions", "Summary", "main", "simulate"]


async def simulate(options: SimulateOptions, *, stop: asyncio.Event | None = None, view: View | None = None) -> Summary:
    """Runs a simulation to its end, or until ``stop`` is set; then verifies and tells.

    Raises Misconfigured when it cannot begin: no such server, tokens refused, conversations that belong to others.
    """
    simulation = Simulation(options.checked(), stop or asyncio.Event(), view or View())
    async with simulation.http():
        return await simulation.whole()


def main(options: SimulateOptions) -> int:
    """The command: shows progress, prints the summary, ends on Ctrl-C and SIGTERM. Returns the exit status.

    0 all promises kept; 1 something acknowledged was lost, doubled or otherwise wrong; 2 could not check, 130 a second
    Ctrl-C did not let it.
    """
    options.checked()
    view = view_for(sys.stderr if options.json else sys.stdout)
    try:
        summary = event_loop.run(_until_signalled(options, view))
    except asyncio.CancelledError:
        return INTERRUPTED
    finally:
        view.close()
    if options.json:
        print(msgspec.json.encode(summary.as_json()).decode(), flush=True)
    else:
        print("\n".join(summary.lines()), flush=True)
    return summary.status


async def _until_signalled(options: SimulateOptions, view: View) -> Summary:
    stop = asyncio.Event()
    on_signals(stop)
    return await simulate(options, stop=stop, view=view)


def on_signals(stop: asyncio.Event) -> None:
    """Ctrl-C and SIGTERM set ``stop``; a second one is obeyed without waiting for anything."""
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()

    def obey() -> None:
        if stop.is_set() and running is not None:
            running.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # no signals on this platform's loop: Ctrl-C interrupts
            loop.add_signal_handler(number, obey)
