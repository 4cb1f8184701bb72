// Centrifuge's client for JavaScript, driven by lines of JSON on stdin; see __init__.py.

import { createInterface } from "node:readline";

const [, , address, module] = process.argv;
const { Centrifuge } = await import(module);
const network = new EventTarget();  // in a page it is the window
const client = new Centrifuge(address,
  { minReconnectDelay: 50, maxReconnectDelay: 300, maxServerPingDelay: 1500, networkEventTarget: network });

const print = (value) => console.log(JSON.stringify(value));
const report = (event, fields) => print({ event, ...fields });

client.on("connecting", ({ code }) => report("connecting", { code }));
client.on("connected", ({ client }) => report("connected", { client }));
client.on("disconnected", ({ code, reason }) => report("disconnected", { code, reason }));
client.on("error", ({ error }) => report("error", { code: error.code, message: error.message }));

function subscribe({ channel, options }) {
  const { join_leave: joinLeave = false, ...others } = options ?? {};
  const subscription = client.getSubscription(channel) ?? client.newSubscription(channel, { joinLeave, ...others });
  if (subscription.listenerCount("publication") === 0) {
    subscription.on("subscribing", ({ code }) => report("subscribing", { channel, code }));
    subscription.on("subscribed", ({ wasRecovering, recovered, streamPosition = null }) =>
      report("subscribed", { channel, wasRecovering, recovered, position: streamPosition }));
    subscription.on("unsubscribed", ({ code, reason }) => report("unsubscribed", { channel, code, reason }));
    subscription.on("error", ({ error }) => report("error", { channel, code: error.code, message: error.message }));
    subscription.on("publication", ({ data, offset = 0, info }) =>
      report("publication", { channel, data, offset, user: info?.user ?? null }));
    subscription.on("join", ({ info }) => report("join", { channel, client: info.client }));
    subscription.on("leave", ({ info }) => report("leave", { channel, client: info.client }));
  }
  subscription.subscribe();
}

const METHODS = {
  several: ({ calls }) => calls.forEach(({ do: method, ...rest }) => METHODS[method](rest)),
  network: ({ event }) => network.dispatchEvent(new Event(event)),
  state: () => client.state,
  connect: () => client.connect(),
  disconnect: () => client.disconnect(),
  subscribe,
  unsubscribe: ({ channel }) => client.getSubscription(channel).unsubscribe(),
  publish: async ({ channel, data }) => void (await client.publish(channel, data)),
  rpc: async ({ method, data }) => (await client.rpc(method, data)).data,
  presence: async ({ channel }) => {
    const { clients } = await client.presence(channel);
    return Object.fromEntries(Object.entries(clients).map(([key, { user }]) => [key, user]));
  },
  presence_stats: async ({ channel }) => {
    const { numClients, numUsers } = await client.presenceStats(channel);
    return [numClients, numUsers];
  },
  history: async ({ channel, options }) => {
    const { publications, epoch, offset } = await client.history(channel, options);
    return { offsets: publications.map((publication) => publication.offset), epoch, offset };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: method, ...rest } = JSON.parse(line);
  Promise.resolve()
    .then(() => METHODS[method](rest))
    .then((result = null) => print({ id, result }))
    .catch((error) => print({ id, error: { code: error.code ?? -1, message: error.message ?? String(error) } }));
}
client.disconnect();
