// The echo on Bun's own server (uWebSockets), the anchor outside of Python: no logs.
// Usage: bun on_bun.js PORT
const certificate = process.env.BENCHMARK_CERTIFICATE;
const deflate = process.env.BENCHMARK_DEFLATE; // "shared" or "dedicated"
const members = new Set();
const paths = {
  "/echo": { message: (socket, data) => socket.send(data, deflate !== undefined) },
  "/pid": { message: (socket) => socket.send(String(process.pid)) },
  "/fanout": {
    open: (socket) => members.add(socket),
    close: (socket) => members.delete(socket),
    message: (socket, data) => {
      for (const member of members) member.send(data);
    },
  },
};

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  tls: certificate && { cert: Bun.file(certificate), key: Bun.file(certificate) },
  fetch(request, server) {
    const name = new URL(request.url).pathname;
    if (name === "/plain") return new Response("ok");
    const path = paths[name];
    if (path && server.upgrade(request, { data: path })) return undefined;
    return new Response("Not found", { status: 404 });
  },
  websocket: {
    perMessageDeflate: deflate ? { compress: deflate, decompress: deflate } : false,
    maxPayloadLength: 64 * 1024 * 1024,
    backpressureLimit: 64 * 1024 * 1024,
    open: (socket) => socket.data.open?.(socket),
    message: (socket, data) => socket.data.message(socket, data),
    close: (socket) => socket.data.close?.(socket),
  },
});
