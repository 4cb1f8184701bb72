"use strict";

const $ = (id) => document.getElementById(id);
const chat = $("chat");
const composer = $("id_text");
const title = document.title;

// --- the connection ------------------------------------------------------------------------------------------------

const LOGGED_OUT = 4401;                    // the close code when the session has ended
const OUR_FAULT = [1003, 1007, 1008, 1009]; // this page sent invalid data, so a new connection would not help
const LONGEST_WAIT = 30;                    // seconds

let socket = null;
const me = { id: Number(chat.dataset.user), name: chat.dataset.name };
let known = false;     // a welcome has come
let position = null;   // after the newest message; a new connection requests the messages after it
let moved = false;     // this connection has brought a message, and so a position
let attempts = 0;      // to connect, since the last welcome
let timer = null;
let over = false;      // no new connection is made
let pending = [];      // texts that were sent and have not been received as messages

function connect() {
  if (over || (socket && socket.readyState !== WebSocket.CLOSED)) return;
  clearTimeout(timer);
  show("connecting", known ? "Reconnecting" : "Connecting");
  const url = new URL(chat.dataset.socket, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  if (position !== null) url.searchParams.set("since", position);
  let welcomed = moved = false;
  socket = new WebSocket(url);
  socket.onmessage = (event) => {
    const { type, ...rest } = JSON.parse(event.data);
    welcomed = true;
    handlers[type]?.(rest);
  };
  socket.onclose = (event) => lost(event.code, welcomed);
}

async function lost(code, welcomed) {
  $("send").disabled = true;
  if (code === LOGGED_OUT) return end("You have been logged out.", "Log in again");
  if (OUR_FAULT.includes(code)) return end("The server refused the data of this page.", "Reload");
  if (!welcomed && await refused()) return;
  if (socket.readyState !== WebSocket.CLOSED) return; // there is a new connection already: see "online"
  // A random part, because all clients may have lost their connections at the same time.
  const seconds = Math.min(LONGEST_WAIT, 2 ** attempts++) * (0.5 + Math.random() / 2);
  show("waiting", seconds < 2 ? "Reconnecting" : `Reconnecting in ${Math.round(seconds)} s`);
  clearTimeout(timer);
  timer = setTimeout(connect, seconds * 1000);
}

async function refused() {
  // JavaScript cannot read why a handshake failed. A request for the page itself gets the same answer.
  try {
    const answer = await fetch(location.href, { redirect: "manual" });
    if (answer.type === "opaqueredirect") end("You have been logged out.", "Log in again");
    if (answer.status === 404) end("This room does not exist.", "Other rooms", "/");
  } catch {
    // The server or the network is down.
  }
  return over;
}

function end(sentence, link, href = location.href) {
  over = true;
  show("closed", "Disconnected");
  $("composer").hidden = true;
  $("over").hidden = false;
  $("over-text").textContent = sentence;
  $("over-link").textContent = link;
  $("over-link").href = href;
  $("over-link").focus();
}

function send(event) {
  socket.send(JSON.stringify(event));
}

addEventListener("online", connect);

// --- events of the server ------------------------------------------------------------------------------------------

const handlers = {
  welcome({ people: now, messages, earlier, position: joined, worker }) {
    // The messages that were missed have come before this, each with its position. Where the server no longer keeps
    // them, "messages" are the newest ones, and some of them may be on the page already.
    $("log").ariaBusy = "true"; // so that a screen reader does not read each message
    const isNew = messages.length > 0 && !$(`message-${messages[0].id}`);
    if (earlier && isNew) notice(known ? "Some messages in between are not shown" : "Earlier messages are not shown");
    messages.forEach((one) => message(one, known));
    $("log").ariaBusy = "false";
    if (!moved) position = joined;
    showAll(now, known);
    $("worker").textContent = `Served by worker ${worker.number} of ${worker.of}.`;
    known = true;
    attempts = 0;
    restore();
    show("open", "Connected");
    $("send").disabled = composer.value.trim() === "";
  },
  message({ position: after, ...one }) {
    position = after;
    moved = true;
    message(one, true);
  },
  people: ({ people: now }) => showAll(now, true),
  join: ({ user }) => join(user, true),
  leave: ({ user }) => leave(user),
  typing: ({ user, after }) => user.id !== me.id && typing(user, after),
  error({ detail }) {
    $("error").textContent = detail;
    restore();
  },
};

function restore() {
  // Put texts that were lost or refused back into the composer.
  if (pending.length) composer.value = [...pending, composer.value].join("\n").trim();
  pending = [];
}

// --- messages ------------------------------------------------------------------------------------------------------

const TOGETHER = 5 * 60_000; // ms between two messages of one user that are shown as one block
const KEEP = 500;            // messages on the page

let latest = new Date(0); // when the newest message was sent
let following = true;     // the end of the log is in view
let unread = 0;

function message({ id, user, text, sent }, live) {
  if ($(`message-${id}`)) return; // from the database and from the group
  const log = $("log");
  const time = new Date(sent);
  const mine = user.id === me.id;
  if (mine && pending.includes(text)) pending.splice(pending.indexOf(text), 1);
  stopTyping(user);
  spoken.set(user.id, id);
  newest = Math.max(newest, id);

  const item = element("li", "message");
  item.id = `message-${id}`;
  Object.assign(item.dataset, { id, user: user.id, sent });
  item.classList.toggle("mine", mine);
  const head = element("div", "head"); // visible above the first message of a block; screen readers read all
  const clock = element("time", "", time.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" }));
  clock.dateTime = sent;
  head.append(element("b", "", mine ? "You" : user.name), clock);
  const bubble = element("p", "bubble");
  bubble.append(...withLinks(text));
  bubble.title = time.toLocaleString();
  item.append(avatar(user), head, bubble);

  const next = after(id);
  if (!next) {
    if (time.toDateString() !== latest.toDateString()) notice(day(time), "day");
    latest = time;
  }
  log.insertBefore(item, next); // at the end if nothing follows
  for (const one of [item, next]) one?.classList.toggle("first", startsBlock(one));
  follow(item, mine);
  while (log.childElementCount > KEEP) log.firstElementChild.remove();

  if (live && !mine && document.hidden) {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

function after(id) {
  // The message that follows, if any. All pages have one order, that of the ids; two workers that store messages at the
  // same time may send them in the other one.
  let next = null;
  for (let node = $("log").lastElementChild; node; node = node.previousElementSibling) {
    if (!node.dataset.id) continue;
    if (Number(node.dataset.id) < id) break;
    next = node;
  }
  return next;
}

function startsBlock(item) {
  const before = item.previousElementSibling?.dataset;
  return before?.user !== item.dataset.user || new Date(item.dataset.sent) - new Date(before.sent) > TOGETHER;
}

const LINK = /https?:\/\/[^\s<>"]*[^\s<>"'.,:;!?()[\]{}]/giu; // what ends a sentence is not part of it

function withLinks(text) {
  const parts = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(LINK)) {
    if (!URL.canParse(found)) continue;
    const link = element("a", "", found);
    link.href = found; // it begins with http: or https:, so it is no script
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
    parts.push(text.slice(end, index), link);
    end = index + found.length;
  }
  return [...parts, text.slice(end)];
}

function notice(text, kind = "notice") {
  const item = element("li", kind, text);
  $("log").append(item);
  follow(item);
}

function follow(item, always = false) {
  if (following || always) toTheEnd();
  else if (item.classList.contains("message")) $("newest").hidden = false;
}

function toTheEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function day(time) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days < 2) return days < 1 ? "Today" : "Yesterday";
  return time.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
  connect();
});

$("scroll").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  following = scrollHeight - scrollTop - clientHeight < 100;
  if (following) $("newest").hidden = true;
});

// The height changes when the composer grows, and when a telephone shows its keyboard.
new ResizeObserver(() => following && toTheEnd()).observe($("scroll"));

$("newest").onclick = toTheEnd;

// --- people --------------------------------------------------------------------------------------------------------

const LEAVE_DELAY = 5000; // ms before "left" is announced; a user who reloads the page is back before that

const people = new Map();  // the users in the room, by id
const leaving = new Map(); // timers of users whose "left" has not been announced, by id

function join(user, announced) {
  if (people.has(user.id)) return; // another tab of the user
  people.set(user.id, user);
  if (leaving.has(user.id)) {
    clearTimeout(leaving.get(user.id));
    leaving.delete(user.id);
  } else if (announced) {
    notice(`${user.name} joined`);
  }
  showPeople();
}

function leave(user) {
  if (!people.has(user.id)) return;
  people.delete(user.id);
  stopTyping(user);
  leaving.set(user.id, setTimeout(() => {
    leaving.delete(user.id);
    notice(`${user.name} left`);
  }, LEAVE_DELAY));
  showPeople();
}

function showAll(now, announced) {
  for (const user of [...people.values()]) if (!now.some(({ id }) => id === user.id)) leave(user);
  for (const user of now) if (!people.has(user.id)) join(user, announced);
}

// A worker that was killed has sent no "leave" for its users.
setInterval(() => chat.dataset.state === "open" && send({ type: "people" }), 30_000);

function showPeople() {
  const order = [...people.values()].sort((a, b) => a.name.localeCompare(b.name));
  $("count").textContent = order.length;
  $("people").replaceChildren(...order.map((user) => {
    const item = element("li");
    item.append(avatar(user), element("span", "", user.name));
    if (user.id === me.id) item.append(element("small", "", "you"));
    return item;
  }));
}

function avatar({ id, name }) {
  const words = name.split(/[\s._+@-]+/).filter(Boolean);
  const letters = words.length > 1 ? [...words[0]][0] + [...words[1]][0] : [...name].slice(0, 2).join("");
  const mark = element("span", "avatar", letters.toUpperCase());
  mark.ariaHidden = "true";
  mark.style.setProperty("--hue", 140 + (id * 0.382 % 1) * 280); // the golden ratio, so that consecutive ids differ most
  return mark;
}

// --- typing --------------------------------------------------------------------------------------------------------

const TYPING_INTERVAL = 2000; // ms between two "typing" events
const TYPING_LASTS = 4000;    // ms

const typists = new Map(); // id: name and timer
const spoken = new Map();  // id: the latest message of the user
let newest = 0;            // the latest message of all
let typingSent = 0;

function typing(user, after) {
  // Messages and the rest are two groups, and have no common order: the message that was typed may be here already.
  if (after < spoken.get(user.id)) return;
  stopTyping(user);
  typists.set(user.id, { name: user.name, timer: setTimeout(() => stopTyping(user), TYPING_LASTS) });
  showTyping();
}

function stopTyping({ id }) {
  if (!typists.has(id)) return;
  clearTimeout(typists.get(id).timer);
  typists.delete(id);
  showTyping();
}

function showTyping() {
  const names = [...typists.values()].map(({ name }) => name);
  const who = names.length > 2 ? "Several people" : names.join(" and ");
  $("typing").classList.toggle("on", names.length > 0);
  $("typing-text").textContent = who && `${who} ${names.length > 1 ? "are" : "is"} typing…`;
}

// --- input ---------------------------------------------------------------------------------------------------------

composer.addEventListener("input", () => {
  const open = chat.dataset.state === "open";
  const empty = composer.value.trim() === "";
  $("send").disabled = !open || empty;
  $("error").textContent = "";
  if (open && !empty && Date.now() - typingSent > TYPING_INTERVAL) {
    typingSent = Date.now();
    send({ type: "typing", after: newest });
  }
});

composer.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = composer.value.trim();
  if (text === "" || socket.readyState !== WebSocket.OPEN) return;
  pending.push(text);
  send({ type: "say", text });
  composer.value = "";
  typingSent = 0;
  $("send").disabled = true;
  composer.focus();
};

// A telephone would show its keyboard, which covers half of the messages.
if (matchMedia("(hover: hover) and (pointer: fine)").matches) composer.focus();

// --- the side, which slides in on small screens --------------------------------------------------------------------

function toggleSide(open) {
  chat.classList.toggle("side-open", open);
  $("menu").ariaExpanded = String(open);
  $("room").inert = open; // the focus stays in what is open
  (open ? $("side").querySelector("a") : $("menu")).focus();
}

$("menu").onclick = () => toggleSide(true);
$("backdrop").onclick = () => toggleSide(false);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.classList.contains("side-open")) toggleSide(false);
});
matchMedia("(max-width: 46rem)").onchange = () => {
  if (chat.classList.contains("side-open")) toggleSide(false);
};

// --- output --------------------------------------------------------------------------------------------------------

function show(state, text) {
  chat.dataset.state = $("state").dataset.state = state;
  $("state").textContent = text;
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text; // never innerHTML: names and messages come from other users
  return made;
}

$("my-avatar").replaceWith(avatar(me));
connect();
