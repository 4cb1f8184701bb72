"use strict";

const $ = (id) => document.getElementById(id);
const form = $("form"); // on the page that asks
const SILENCE = 10_000; // ms without a token after which an answer is taken for interrupted: its worker was killed
const RELOAD = 4000;    // the close code when the server no longer keeps what this page has missed

const answers = new Map(); // by name: element and timer
let position = null;       // after the last token; a new connection requests those after it
let attempts = 0;
let socket = null;

// --- the two ways ----------------------------------------------------------------------------------------------------

function connect() {
  const url = new URL("/socket", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  if (position !== null) url.searchParams.set("since", position);
  socket = new WebSocket(url);
  socket.onopen = () => {
    attempts = 0;
    show("open", "Connected");
  };
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.process) return served(event.process);
    position = event.position;
    take(event);
  };
  socket.onclose = ({ code }) => {
    if (code === RELOAD) return location.reload();
    show("connecting", "Reconnecting");
    // A random part, because all clients may have lost their connections at the same time.
    setTimeout(connect, Math.min(30, 2 ** attempts++) * (500 + Math.random() * 500));
  };
}

function watch(address = "/events") {
  const source = new EventSource(address); // it reconnects, and sends the id of the last event, which is the position
  source.onopen = () => show("open", "Connected");
  source.onerror = () => show("connecting", "Reconnecting");
  source.onmessage = ({ data }) => take(JSON.parse(data));
  source.addEventListener("process", ({ data }) => served(data));
  source.addEventListener("reload", () => location.reload());
}

// --- the answers -----------------------------------------------------------------------------------------------------

function take({ answer, question, token, end }) {
  if (question !== undefined) begin(answer, question);
  const one = answers.get(answer);
  if (!one) return; // its beginning is no longer kept
  clearTimeout(one.timer);
  if (token !== undefined) one.text.append(token); // text, never HTML
  if (end !== undefined) {
    one.item.dataset.end = end;
    $("announcer").textContent = one.text.textContent; // once, and not each token
  } else {
    one.timer = setTimeout(() => (one.item.dataset.end = "interrupted"), SILENCE);
    delete one.item.dataset.end;
  }
  scrollTo({ top: document.body.scrollHeight });
}

function begin(answer, question) {
  const item = document.createElement("li");
  const asked = Object.assign(document.createElement("p"), { className: "question", textContent: question });
  const text = Object.assign(document.createElement("p"), { className: "answer" });
  item.append(asked, text);
  $("answers").append(item);
  answers.set(answer, { item, text });
}

// --- the rest --------------------------------------------------------------------------------------------------------

function show(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
  if (form) $("send").disabled = state !== "open";
}

function served(process) {
  $("process").textContent = `Served by process ${process}.`;
}

if (form) {
  form.onsubmit = (event) => {
    event.preventDefault();
    const question = $("question").value.trim();
    if (question === "" || socket.readyState !== WebSocket.OPEN) return;
    socket.send(question);
    $("question").value = "";
  };
  if (matchMedia("(hover: hover) and (pointer: fine)").matches) $("question").focus();
  connect();
} else {
  watch();
}
