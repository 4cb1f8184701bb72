"use strict";

const $ = (id) => document.getElementById(id);
const list = $("list");
const { socket, group, epoch, offset } = list.dataset;
const SHOWN = 50; // notifications on the page
const unread = new Set(list.dataset.unread.split(",").filter(Boolean).map(Number)); // ids; not all are on the page

// --- the connection: the client of npm reconnects, and gets what was missed ----------------------------------------

const client = new Centrifuge(new URL(socket, location.href).href.replace("http", "ws"));
// The page was made at this position, and what was sent since then comes first.
const subscription = client.newSubscription(group, { since: { epoch, offset: Number(offset) } });

client.on("connecting", () => state("connecting", "Connecting"));
client.on("disconnected", ({ code }) => {
  state("closed", code === 4501 ? "Logged out" : "Disconnected");
});
client.on("connected", async () => {
  const { data } = await client.rpc("process", {});
  $("process").textContent = `Served by process ${data}.`;
});
subscription.on("subscribed", ({ wasRecovering, recovered }) => {
  // The server no longer keeps all that this page has missed; it has the list in its database.
  if (wasRecovering && !recovered) location.reload();
  state("open", "Connected");
});
subscription.on("publication", ({ data }) => {
  if (data.notification) show(data.notification);
  for (const id of data.read ?? []) markRead(id);
});

subscription.subscribe();
client.connect();

// --- the list --------------------------------------------------------------------------------------------------------

function show({ id, text, created, read }) {
  if ($(`notification-${id}`)) return; // it was in the page already
  const item = document.createElement("li");
  item.id = `notification-${id}`;
  item.classList.toggle("unread", !read);
  const words = Object.assign(document.createElement("span"), { className: "text", textContent: text });
  const time = Object.assign(document.createElement("time"), { dateTime: created });
  item.append(words, " ", time);
  list.prepend(item);
  while (list.childElementCount > SHOWN) list.lastElementChild.remove();
  if (!read) unread.add(id);
  count();
  localTimes();
}

function markRead(id) {
  $(`notification-${id}`)?.classList.remove("unread");
  unread.delete(id);
  count();
}

function count() {
  $("unread").textContent = unread.size;
  $("count").dataset.some = unread.size > 0;
  document.title = unread.size ? `(${unread.size}) Notifications` : "Notifications";
}

function localTimes() {
  for (const time of document.querySelectorAll("time")) time.textContent = new Date(time.dateTime).toLocaleString();
}

function state(name, text) {
  $("state").dataset.state = name;
  $("state").textContent = text;
}

count();
localTimes();
