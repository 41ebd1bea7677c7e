// Node `ws`: the loop over the clients that its README shows.
const { WebSocketServer, WebSocket } = require("ws");
const rooms = new Map();
const server = new WebSocketServer(
  { host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false, backlog: 4096 },
  () => console.log("ready"),
);
server.on("connection", (ws, request) => {
  const name = new URL(request.url, "http://localhost").searchParams.get("room") || "";
  let room = rooms.get(name);
  if (!room) rooms.set(name, (room = new Set()));
  room.add(ws);
  ws.send("joined");
  ws.on("message", (data, isBinary) => {
    for (const member of room)
      if (member !== ws && member.readyState === WebSocket.OPEN) member.send(data, { binary: isBinary });
  });
  ws.on("error", () => {});
  ws.on("close", () => room.delete(ws));
});
