"""The rows of commands and pressure in Connections & delivery: what clients ask, what is refused, who is slow."""

from __future__ import annotations

from grafana.source import promql as q
from grafana.source.boards import Row
from grafana.source.colors import CODES
from grafana.source.colors import COMMANDS as KINDS
from grafana.source.courses import parted
from grafana.source.panels import DATABASE, HEALTH, NODE, Query, above, lines, named

COMMANDS = Row(
    "Commands",
    8,
    [
        (
            parted(
                "Commands per second",
                "ops",
                "messaging_command_duration_seconds_count",
                "command",
                "What clients ask, refused commands included. If one kind multiplies, a client version may be looping.",
                KINDS,
            ),
            12,
        ),
        (
            lines(
                "Command time, 99 % within",
                "s",
                Query(q.quantile(0.99, "messaging_command_duration_seconds", "command"), named("{{command}}")),
                "From receipt to answer. send, join and read wait for the database; if typing and ping are "
                "slow too, the event loop lags.",
                colors=KINDS,
                ranked=True,
                link=HEALTH,
            ),
            12,
        ),
        (
            parted(
                "Refused commands by code, per minute",
                "opm",
                "messaging_commands_rejected_total",
                "code",
                "If unavailable grows, the database is down or slow; internal: a bug, read the log; the "
                "others are the clients' faults.",
                CODES,
                DATABASE,
            ),
            12,
        ),
        (
            parted(
                "Refused commands by kind, per minute",
                "opm",
                "messaging_commands_rejected_total",
                "command",
                "unknown: the frame could not be read. If one kind stands out, compare with its codes to the left.",
                KINDS,
            ),
            12,
        ),
    ],
)

PRESSURE = Row(
    "Pressure",
    7,
    [
        (
            lines(
                "Slow consumers",
                "short",
                Query(q.total("messaging_slow_consumers", "instance"), NODE),
                "Connections whose send buffer is above half its limit. If there are many at once, follow the "
                "runbook of MessagingSlowConsumers: a network is slow, or a fan-out too large.",
            ),
            8,
        ),
        (
            lines(
                "Fullest send buffer",
                "bytes",
                Query(q.worst("messaging_send_buffer_max_bytes", "instance"), NODE),
                "The fullest of all connections' buffers. At --limits.send-buffer-bytes (1 MiB) its "
                "connection is cut off with 4008. If it is always near, clients cannot keep up.",
                steps=above((524288, "orange"), (1048576, "red")),
            ),
            8,
        ),
        (
            lines(
                "Bytes per second",
                "Bps",
                [
                    Query(q.speed("messaging_received_bytes_total"), named("received")),
                    Query(q.speed("messaging_sent_bytes_total"), named("sent")),
                ],
                "WebSocket bytes after the upgrade. If sent approaches the network card's limit, everything "
                "becomes slow: spread the load over more nodes.",
            ),
            8,
        ),
    ],
)
