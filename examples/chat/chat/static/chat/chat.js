"use strict";

const $ = (id) => document.getElementById(id);
const chat = $("chat");
const composer = $("id_text");
const title = document.title;

// --- the connection ------------------------------------------------------------------------------------------------

const LOGGED_OUT = 4401;                    // gws_middleware closes with it when the session ends
const OUR_FAULT = [1003, 1007, 1008, 1009]; // this page sent what the server does not take: again would be no better
const LONGEST_WAIT = 30;                    // seconds

let socket = null;
let me = null;         // null until the first welcome
let last = 0;          // id of the newest message: when we come back, we ask for what came after it
let attempts = 0;      // to connect, since the last welcome
let timer = null;
let over = false;      // the connection is not wanted any more
let pending = [];      // what we said and have not seen come back

function connect() {
  if (over || (socket && socket.readyState !== WebSocket.CLOSED)) return;
  clearTimeout(timer);
  show("connecting", me ? "Reconnecting" : "Connecting");
  const url = new URL(chat.dataset.socket, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.searchParams.set("since", last);
  let welcomed = false;
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
  if (OUR_FAULT.includes(code)) return end("This page and the server do not understand each other.", "Reload");
  if (!welcomed && await refused()) return;
  if (socket.readyState !== WebSocket.CLOSED) return; // somebody has been faster: see "online"
  // A random part, because whatever cut our connection has cut everybody's.
  const seconds = Math.min(LONGEST_WAIT, 2 ** attempts++) * (0.5 + Math.random() / 2);
  show("waiting", seconds < 2 ? "Reconnecting" : `Reconnecting in ${Math.round(seconds)} s`);
  clearTimeout(timer);
  timer = setTimeout(connect, seconds * 1000);
}

async function refused() {
  // JavaScript is not told why a handshake failed: the page's own address gives the same answer.
  try {
    const answer = await fetch(location.href, { redirect: "manual" });
    if (answer.type === "opaqueredirect") end("You have been logged out.", "Log in again");
    if (answer.status === 404) end("This room is gone.", "Other rooms", "/");
  } catch {
    // The server is not there, or the network is not.
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

// --- what the server says ------------------------------------------------------------------------------------------

const handlers = {
  welcome({ you, people: now, messages, earlier }) {
    const back = me !== null;
    me = you;
    attempts = 0;
    $("log").ariaBusy = "true"; // not to be read out one by one
    if (earlier) notice(back ? "Some messages in between are not shown" : "Earlier messages are not shown");
    messages.forEach((one) => message(one, back));
    $("log").ariaBusy = "false";
    for (const user of [...people.values()]) if (!now.some(({ id }) => id === user.id)) leave(user);
    for (const user of now) if (!people.has(user.id)) join(user, back);
    unsaid();
    show("open", "Connected");
    $("send").disabled = composer.value.trim() === "";
  },
  message: (one) => message(one, true),
  join: ({ user }) => join(user, true),
  leave: ({ user }) => leave(user),
  typing: ({ user }) => typing(user),
  error({ detail }) {
    $("error").textContent = detail;
    unsaid();
  },
};

function unsaid() {
  // What was lost on the way, or refused, is in the composer again.
  if (pending.length) composer.value = [...pending, composer.value].join("\n").trim();
  pending = [];
}

// --- messages ------------------------------------------------------------------------------------------------------

const TOGETHER = 5 * 60_000; // ms between two messages of one user that are shown as one block
const KEEP = 500;            // messages on the page

let latest = { user: null, sent: new Date(0) };
let following = true; // the end of the log, and not something further up
let unread = 0;

function message({ id, user, text, sent }, live) {
  const log = $("log");
  const time = new Date(sent);
  const mine = user.id === me.id;
  last = id;
  if (mine && pending.includes(text)) pending.splice(pending.indexOf(text), 1);
  stopTyping(user);

  if (time.toDateString() !== latest.sent.toDateString()) notice(day(time), "day");
  const item = element("li", "message");
  item.classList.toggle("mine", mine);
  item.classList.toggle("first", latest.user !== user.id || time - latest.sent > TOGETHER);
  latest = { user: user.id, sent: time };

  const head = element("div", "head"); // seen above the first of a block, and heard with each
  const clock = element("time", "", time.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" }));
  clock.dateTime = sent;
  head.append(element("b", "", mine ? "You" : user.name), clock);
  const bubble = element("p", "bubble", text);
  bubble.title = time.toLocaleString();
  item.append(avatar(user), head, bubble);
  append(item, mine);
  while (log.childElementCount > KEEP) log.firstElementChild.remove();

  if (live && !mine && document.hidden) {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

function notice(text, kind = "notice") {
  latest = { user: null, sent: latest.sent };
  append(element("li", kind, text));
}

function append(item, follow = false) {
  $("log").append(item);
  if (following || follow) toTheEnd();
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

// The composer grows, a telephone shows its keyboard.
new ResizeObserver(() => following && toTheEnd()).observe($("scroll"));

$("newest").onclick = toTheEnd;

// --- people --------------------------------------------------------------------------------------------------------

const BACK_SOON = 5000; // ms in which somebody who has left may come back unnoticed, e.g. reloads the page

const people = new Map(); // those who are here, by id
const gone = new Map();   // timers of those whose leaving has not been announced yet

function join(user, announced) {
  people.set(user.id, user);
  if (gone.has(user.id)) {
    clearTimeout(gone.get(user.id));
    gone.delete(user.id);
  } else if (announced) {
    notice(`${user.name} joined`);
  }
  showPeople();
}

function leave(user) {
  people.delete(user.id);
  stopTyping(user);
  gone.set(user.id, setTimeout(() => {
    gone.delete(user.id);
    notice(`${user.name} left`);
  }, BACK_SOON));
  showPeople();
}

function showPeople() {
  const order = [...people.values()].sort((a, b) => a.name.localeCompare(b.name));
  $("count").textContent = order.length;
  $("people").replaceChildren(...order.map((user) => {
    const item = element("li");
    item.append(avatar(user), element("span", "", user.name));
    if (user.id === me.id) item.append(element("small", "", "you"));
    return item;
  }));
  if (me) $("my-avatar").replaceWith(Object.assign(avatar(me), { id: "my-avatar" }));
}

function avatar({ id, name }) {
  const words = name.split(/[\s._+@-]+/).filter(Boolean);
  const letters = words.length > 1 ? [...words[0]][0] + [...words[1]][0] : [...name].slice(0, 2).join("");
  const mark = element("span", "avatar", letters.toUpperCase());
  mark.ariaHidden = "true";
  mark.style.setProperty("--hue", 140 + (id * 0.382 % 1) * 280); // the golden section: neighbours differ most
  return mark;
}

// --- typing --------------------------------------------------------------------------------------------------------

const SAY_TYPING_EVERY = 2000; // ms
const TYPING_LASTS = 4000;     // ms

const typists = new Map(); // id: name and timer
let saidTyping = 0;

function typing(user) {
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

// --- what the user does --------------------------------------------------------------------------------------------

composer.addEventListener("input", () => {
  const open = socket.readyState === WebSocket.OPEN && me !== null;
  const empty = composer.value.trim() === "";
  $("send").disabled = !open || empty;
  $("error").textContent = "";
  if (open && !empty && Date.now() - saidTyping > SAY_TYPING_EVERY) {
    saidTyping = Date.now();
    send({ type: "typing" });
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
  saidTyping = 0;
  $("send").disabled = true;
  composer.focus();
};

function toggleSide(open) {
  chat.classList.toggle("side-open", open);
  $("menu").ariaExpanded = String(open);
  (open ? $("side").querySelector("a") : $("menu")).focus();
}

$("menu").onclick = () => toggleSide(true);
$("backdrop").onclick = () => toggleSide(false);
$("side").onkeydown = (event) => {
  if (event.key === "Escape") toggleSide(false);
};

// --- what the page shows -------------------------------------------------------------------------------------------

function show(state, text) {
  chat.dataset.state = $("state").dataset.state = state;
  $("state").textContent = text;
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text; // never innerHTML: names and messages are other people's
  return made;
}

connect();
