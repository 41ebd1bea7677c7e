// socket.io, WebSocket transport only, its own rooms; with a broker's URL as the second argument its redis adapter.
const http = require("http");
const { Server } = require("socket.io");
const server = http.createServer();
// The clients of the cluster's bench answer no heartbeats: there are none.
const heartbeats = process.argv[3] ? { pingInterval: 3600000 } : {};
const options = { transports: ["websocket"], perMessageDeflate: false, serveClient: false, ...heartbeats };
const io = new Server(server, options);
io.on("connection", (socket) => {
  let room = "";
  socket.on("join", (name, done) => {
    room = name;
    socket.join(name);
    done("joined");
  });
  socket.on("typing", (data) => socket.to(room).emit("typing", data));
});
const listen = () =>
  server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 }, () => console.log("ready"));
if (process.argv[3]) {
  const { createAdapter } = require("@socket.io/redis-adapter");
  const publisher = require("redis").createClient({ url: process.argv[3] });
  const subscriber = publisher.duplicate();
  Promise.all([publisher.connect(), subscriber.connect()]).then(() => {
    io.adapter(createAdapter(publisher, subscriber));
    listen();
  });
} else listen();
