#!/bin/sh
# Caddy's load balancer and an upstream that says 503.
#
# Guess: with two upstreams, lb_try_duration and passive health checks for 503, Caddy asks the second upstream when the
# first one answers 503 (nginx's proxy_next_upstream http_503 and HAProxy's retry-on 503 do).
# Seen, Caddy 2.6: it does not. lb_try_duration repeats only what could not be connected to; a 503 goes to the client as
# it is, and counts against the upstream from the next request on. A second reverse_proxy within handle_response does it.
#
# Needs: curl, python3, and Debian's caddy, which is unpacked into a temporary folder where it is not installed.
set -eu
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
caddy=$(command -v caddy || true)
if [ -z "$caddy" ]; then
    apt-get download -qq caddy
    dpkg -x caddy_*.deb unpacked
    caddy=$folder/unpacked/usr/bin/caddy
fi
"$caddy" version
export HOME="$folder" XDG_CONFIG_HOME="$folder" XDG_DATA_HOME="$folder"

cat >upstream.py <<'END'
import http.server, sys
status = int(sys.argv[1])
class Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(status); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
print(server.server_address[1], flush=True)
server.serve_forever()
END
python3 upstream.py 503 >refusing & python3 upstream.py 200 >willing &
until [ -s refusing ] && [ -s willing ]; do sleep 0.1; done
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
plain=$(port) nested=$(port)
cat >Caddyfile <<END
{
	admin off
}
(nodes) {
	to 127.0.0.1:$(cat refusing) 127.0.0.1:$(cat willing)
	lb_policy first
	lb_try_duration 2s
	unhealthy_status 503
	fail_duration 1s
}
http://127.0.0.1:$plain {
	reverse_proxy {
		import nodes
	}
}
http://127.0.0.1:$nested {
	reverse_proxy {
		import nodes
		@refused status 503
		handle_response @refused {
			reverse_proxy {
				import nodes
			}
		}
	}
}
END
"$caddy" run --adapter caddyfile --config Caddyfile 2>log &
ask() { curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$1/"; }
until ask "$plain" >first; do sleep 0.1; done # the answer of the first request that reaches it
second=$(ask "$plain")
sleep 1.5 # fail_duration: the refusing upstream counts as well again
inner=$(ask "$nested")
echo "plain: first request $(cat first), the next $second; with a reverse_proxy within handle_response: $inner"
[ "$(cat first) $second $inner" = "503 200 200" ]
