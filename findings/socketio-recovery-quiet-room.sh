#!/usr/bin/env bash
# socket.io and socket.io-client 4.8.4 (socket.io-adapter 2.5.9) from npm; nothing of this project.
#
# Guess: with connectionStateRecovery, who is back within maxDisconnectionDuration is recovered and gets what was sent
# meanwhile; that time is how long a disconnection may last. The in-memory adapter supports it.
#
# Seen: it is also how long ago the last event may have been that the client has got, and it must have got one. The
# server forgets events that are older, once a minute, and knows the client's place by its last event only. So in a room
# that was quiet for longer, and for a client that nothing was sent to yet, a gap of one second loses what was sent in
# it, and the rooms: "recovered" is false. With the default it is two minutes of quiet. Pings are no events.
# With maxDisconnectionDuration 10 s, a gap of 1 s, one event in it and one after it:
#   an event just before: recovered true, got before gap after
#   no event before: recovered false, got after
#   an event 75 s before: recovered false, got before after
#
# Needs node and npm. Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --no-save socket.io@4.8.4 socket.io-client@4.8.4 socket.io-adapter@2.5.9
cat >look.js <<'NODE'
const http = require("http");
const { Server } = require("socket.io");
const { io } = require("socket.io-client");

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const connected = (client) => new Promise((resolve) => client.once("connect", resolve));
const web = http.createServer();
const server = new Server(web, { connectionStateRecovery: { maxDisconnectionDuration: 10000 } });
server.on("connection", (socket) => socket.join("room")); // who is new joins again, as applications do

async function look(name, url, before, quiet) {
  const got = [];
  const options = { transports: ["websocket"], forceNew: true, reconnectionDelay: 1000, randomizationFactor: 0 };
  const client = io(url, options);
  client.on("message", (text) => got.push(text));
  await connected(client);
  const gone = () => new Promise((resolve) => server.sockets.sockets.get(client.id).once("disconnect", resolve));
  if (before) {
    const arrived = new Promise((resolve) => client.once("message", resolve));
    server.to("room").emit("message", "before");
    await arrived;
  }
  await sleep(quiet);
  const noticed = gone();
  client.io.engine.close(); // its connection ends, and it comes back by itself
  await noticed;
  server.to("room").emit("message", "gap");
  await connected(client);
  const last = new Promise((resolve) => client.on("message", (text) => text === "after" && resolve()));
  server.to("room").emit("message", "after");
  await last;
  console.log(`${name}: recovered ${client.recovered}, got ${got.join(" ")}`);
  client.close();
}

web.listen(0, "127.0.0.1", async () => {
  const url = `http://127.0.0.1:${web.address().port}`;
  await look("an event just before", url, true, 0);
  await look("no event before", url, false, 0);
  await look("an event 75 s before", url, true, 75000); // longer than ten seconds and the minute of the clearing
  process.exit(0);
});
NODE
timeout 150 node look.js | tee seen
diff seen - <<'SEEN'
an event just before: recovered true, got before gap after
no event before: recovered false, got after
an event 75 s before: recovered false, got before after
SEEN
