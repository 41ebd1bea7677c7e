#!/usr/bin/env bash
# Prosody 0.12.3 (Debian 12), storage = "sql": what is left in the database of a persistent room that was destroyed?
#
# Guess: nothing: its messages and its settings go, so the rooms are SELECT DISTINCT host, "user" ... store = 'config'.
# Seen:  its messages go and the rows of its members go, but three rows of store 'config' (_data, _jid,
#        _affiliation_data) and its row in store 'persistent' stay, also over a restart. A living room has a row for
#        its owner besides, whose key is the owner's address. So a room exists where a key of 'config' has an @.
#
# Needs Debian 12 (apt-get, dpkg) and Python 3; installs into a temporary folder only. Fails when the output changes.
set -euo pipefail
folder=$(mktemp -d)
server=""
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -q prosody=0.12.3-1+deb12u1 lua5.4 liblua5.4-0 lua-expat lua-filesystem lua-socket lua-sec \
    lua-dbi-sqlite3 lua-dbi-common libicu72 >/dev/null
for package in *.deb; do dpkg -x "$package" root; done
root="$folder/root"
sed "s|'/usr/lib/prosody|'$root/usr/lib/prosody|; 1d" "$root/usr/bin/prosody" >prosody.lua
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >prosody.cfg.lua <<LUA
run_as_root = true
data_path = "$folder"
pidfile = "$folder/pid"
interfaces = { "127.0.0.1" }
c2s_ports = { $port }
s2s_ports = { }
http_ports = { }
https_ports = { }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
allow_registration = true
authentication = "internal_hashed"
storage = "sql"
sql = { driver = "SQLite3", database = "prosody.sqlite" }
modules_enabled = { "saslauth", "register", "register_ibr", "disco", "presence", "message", "iq" }
modules_disabled = { "tls", "s2s" }
log = { warn = "$folder/log" }
VirtualHost "example.org"
Component "conference.example.org" "muc"
  modules_enabled = { "muc_mam" }
LUA
start() {
    LUA_PATH="$root/usr/share/lua/5.4/?.lua;$root/usr/share/lua/5.4/?/init.lua;;" \
        LUA_CPATH="$root/usr/lib/$(uname -m)-linux-gnu/lua/5.4/?.so;;" \
        LD_LIBRARY_PATH="$root/usr/lib/$(uname -m)-linux-gnu" \
        "$root/usr/bin/lua5.4" prosody.lua -F --config "$folder/prosody.cfg.lua" >output 2>&1 &
    server=$!
    for _ in $(seq 100); do
        if python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; then return; fi
        sleep 0.1
    done
    cat output log
    exit 1
}
start
python3 - "$port" <<'PYTHON'
import base64, socket, sys

connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.settimeout(20)


def say(text, *until):
    connection.sendall(text.encode())
    heard = ""
    while not all(part in heard for part in until):
        data = connection.recv(65536).decode()
        assert data, heard
        heard += data


def stream():
    say("<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' "
        "xmlns:stream='http://etherx.jabber.org/streams'>", "</stream:features>")


stream()
say("<iq type='set' id='1'><query xmlns='jabber:iq:register'><username>ann</username><password>horse</password></query>"
    "</iq>", "type='result'")
word = base64.b64encode(b"\0ann\0horse").decode()
say(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{word}</auth>", "<success")
stream()
say("<iq type='set' id='2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", "</iq>")
say("<presence/>")
for room in ("living", "destroyed"):
    jid = f"{room}@conference.example.org"
    say(f"<presence to='{jid}/ann'><x xmlns='http://jabber.org/protocol/muc'/></presence>", "110", "<subject")
    say(f"<iq type='set' id='c{room}' to='{jid}'><query xmlns='http://jabber.org/protocol/muc#owner'><x type='submit' "
        "xmlns='jabber:x:data'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>"
        "<field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query></iq>", f"c{room}", "result")
    say(f"<message type='groupchat' id='m{room}' to='{jid}'><body>hello</body></message>", f"m{room}")
say(f"<iq type='set' id='gone' to='{jid}'><query xmlns='http://jabber.org/protocol/muc#owner'><destroy/></query></iq>",
    "id='gone'", "result")
say("</stream:stream>", "</stream:stream>")
PYTHON
kill "$server"
wait "$server" || true
start
kill "$server"
wait "$server" || true
server=""
python3 - <<'PYTHON' | tee seen
import sqlite3

rows = sqlite3.connect("prosody.sqlite")
for room in ("living", "destroyed"):
    (messages,) = rows.execute("SELECT COUNT(*) FROM prosodyarchive WHERE store = 'muc_log' AND user = ?", (room,)).fetchone()
    keys = [key for (key,) in rows.execute("SELECT key FROM prosody WHERE store = 'config' AND user = ? ORDER BY 1", (room,))]
    like = f"{room}@%"
    (listed,) = rows.execute("SELECT COUNT(*) FROM prosody WHERE store = 'persistent' AND key LIKE ?", (like,)).fetchone()
    print(f"{room}: messages {messages}, persistent {listed}, config {' '.join(keys)}")
PYTHON
diff seen - <<'SEEN'
living: messages 1, persistent 1, config _affiliation_data _data _jid ann@example.org
destroyed: messages 0, persistent 1, config _affiliation_data _data _jid
SEEN
echo "as described"
