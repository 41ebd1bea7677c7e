"""What a series' name means as a colour: patterns of legends. Otherwise the first series is green, whatever it is.

Red is the server's fault, orange the surroundings', yellow and purple the client's; green and blue are every day's.
"""

from __future__ import annotations

CLOSES = {
    "/: internal_error$/": "red",
    "/: slow_consumer$/": "orange",
    "/: heartbeat$/": "dark-orange",
    "/: protocol_error$/": "yellow",
    "/: rate_limited$/": "dark-yellow",
    "/: token_expired$/": "purple",
    "/: admin$/": "dark-purple",
    "/: shutdown$/": "blue",
    "/: client$/": "green",
}
REFUSALS = {
    "/: capacity$/": "red",
    "/: user_limit$/": "orange",
    "/: draining$/": "blue",
    "/: unauthenticated$/": "yellow",
    "/: origin$/": "purple",
    "/: handshake$/": "dark-yellow",
}
CODES = {
    "/: internal$/": "red",
    "/: unavailable$/": "dark-red",
    "/: rate_limited$/": "orange",
    "/: too_large$/": "dark-orange",
    "/: forbidden$/": "purple",
    "/: not_joined$/": "yellow",
    "/: not_found$/": "dark-yellow",
    "/: bad_frame$/": "blue",
    "/: unknown_type$/": "dark-blue",
}
# What everybody does all day: without these, Grafana's fifth series is red.
COMMANDS = {
    "/: send$/": "blue",
    "/: typing$/": "purple",
    "/: read$/": "light-purple",
    "/: join$/": "green",
    "/: leave$/": "yellow",
    "/: ping$/": "super-light-blue",
    "/: unknown$/": "dark-orange",
}
TYPING = {
    "/: started$/": "green",
    "/: stopped: message$/": "blue",
    "/: stopped: stop$/": "light-blue",
    "/: stopped: leave$/": "yellow",
    "/: stopped: disconnect$/": "dark-yellow",
    "/: stopped: timeout$/": "orange",
}
FIGURES = {
    "/: connections$/": "purple",
    "/: users$/": "blue",
    "/: conversations$/": "green",
    "/: participants$/": "light-blue",
    "/: typing$/": "yellow",
    "/: not final$/": "orange",
}
HALF = {"/: half within$/": "green", "/: 99 % within$/": "orange"}
