#!/usr/bin/env bash
# ejabberd 23.01 (Debian 12, installed; one of its own runs in a temporary folder); nothing of this project.
#
# Guess: "stats onlineusers" is how many users are online: who is signed in on two devices is one, who has not sent a
# presence is none, and neither is one whose connection has broken.
#
# Seen: it counts sessions, as "stats_host onlineusers" and connected_users_number do. A user with two devices is 2. One
# who signed in and is not available to anybody is 1. A device that uses stream management, as phones do, stays for
# resume_timeout (10 s here, 5 minutes if nobody says so) after its connection has broken. So the figure grows with the
# devices, and when a network breaks it falls minutes later only.
#   Ann is on her phone: onlineusers 1; different users of connected_users 1
#   and on her laptop: onlineusers 2; different users of connected_users 1
#   Bob signs in, without a presence: onlineusers 3; different users of connected_users 2
#   the connections of the laptop and of Bob break: onlineusers 1; different users of connected_users 1
#   that of the phone breaks, after 2 s: onlineusers 1; different users of connected_users 1
#   after 20 s: onlineusers 0; different users of connected_users 0
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
[[ $(dpkg-query -W -f '${Version}' ejabberd) == 23.01-* ]]
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 - <<'PYTHON' | tee seen
import base64
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

SPACES = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
STREAM = f"<?xml version='1.0'?><stream:stream to='example.org' version='1.0' {SPACES}>"
here = os.getcwd()
with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
    ports = [one.getsockname()[1], other.getsockname()[1]]
pathlib.Path("ejabberd.yml").write_text(json.dumps({  # JSON is YAML
    "hosts": ["example.org"], "certfiles": [],
    "listen": [
        {"port": ports[0], "ip": "127.0.0.1", "module": "ejabberd_c2s"},
        {"port": ports[1], "ip": "127.0.0.1", "module": "ejabberd_http", "request_handlers": {"/api": "mod_http_api"}}],
    "api_permissions": {"all": {"who": [{"ip": "127.0.0.1/8"}], "what": ["*"]}},
    "modules": {"mod_admin_extra": {}, "mod_stream_mgmt": {"resume_timeout": 10}},
}))  # fmt: skip
PRESENCE = ("<presence/>", "<presence")  # it is sent to oneself as well
libraries = next(pathlib.Path("/usr/lib").glob("*/ejabberd-*")).parent
environment = {**os.environ, "HOME": str(here), "ERL_LIBS": str(libraries), "SPOOL_DIR": f"{here}/mnesia",
               "EJABBERD_CONFIG_PATH": f"{here}/ejabberd.yml", "EJABBERD_LOG_PATH": f"{here}/ejabberd.log"}  # fmt: skip


def admin(command, **arguments):
    request = urllib.request.Request(f"http://127.0.0.1:{ports[1]}/api/{command}", json.dumps(arguments).encode())
    request.add_header("Content-Type", "application/json")
    return json.load(urllib.request.urlopen(request, timeout=20))


class Device:
    def __init__(self, user, resource, *then):
        self.connection = socket.create_connection(("127.0.0.1", ports[0]), timeout=30)
        word = base64.b64encode(f"\0{user}\0horse".encode()).decode()
        self.say(STREAM, "</stream:features>")
        self.say(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{word}</auth>", "<success")
        self.say(STREAM, "</stream:features>")
        bind = f"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind>"
        self.say(f"<iq type='set' id='b'>{bind}</iq>", "</iq>")
        [self.say(*both) for both in then]

    def say(self, text, until):
        self.connection.sendall(text.encode())
        heard = ""
        while until not in heard:
            heard += self.connection.recv(65536).decode() or exit(f"it ended after {heard}")


def look(name, pause=2):
    time.sleep(pause)
    online = admin("stats", name="onlineusers")["stat"]
    assert admin("stats_host", name="onlineusers", host="example.org")["stat"] == online
    assert admin("connected_users_number")["num_sessions"] == online
    users = {address.partition("/")[0] for address in admin("connected_users")}
    print(f"{name}: onlineusers {online}; different users of connected_users {len(users)}")


command = ["erl", "-noinput", "-mnesia", "dir", f'"{here}/mnesia"', "-s", "ejabberd"]
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
ejabberd = subprocess.Popen(command, env=environment, **quiet)
try:
    for _ in range(300):
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            admin("status")
            break
    [admin("register", user=user, host="example.org", password="horse") for user in ("ann", "bob")]
    phone = Device("ann", "phone", ("<enable xmlns='urn:xmpp:sm:3' resume='true'/>", "<enabled"), PRESENCE)
    look("Ann is on her phone")
    others = [Device("ann", "laptop", PRESENCE)]
    look("and on her laptop")
    others.append(Device("bob", "pc"))
    look("Bob signs in, without a presence")
    [device.connection.close() for device in others]
    look("the connections of the laptop and of Bob break")
    phone.connection.close()
    look("that of the phone breaks, after 2 s")
    look("after 20 s", 18)
finally:
    ejabberd.terminate()
    ejabberd.wait()
PYTHON
diff seen - <<'SEEN'
Ann is on her phone: onlineusers 1; different users of connected_users 1
and on her laptop: onlineusers 2; different users of connected_users 1
Bob signs in, without a presence: onlineusers 3; different users of connected_users 2
the connections of the laptop and of Bob break: onlineusers 1; different users of connected_users 1
that of the phone breaks, after 2 s: onlineusers 1; different users of connected_users 1
after 20 s: onlineusers 0; different users of connected_users 0
SEEN
