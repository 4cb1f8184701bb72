"use strict";

// The server sends rows as HTML. A row that the page has is replaced, another one is put on top. (The extension "ws" of
// htmx does the same with hx-swap-oob.)

const rows = document.getElementById("rows");
const status = document.getElementById("state");
const SHOWN = 50;      // rows on the page
const RELOAD = 4000;   // the close code when the server no longer keeps what this page has missed
const ENDED = [4401, 4501];
let attempts = 0;

function connect() {
  const url = new URL(rows.dataset.socket, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.searchParams.set("since", rows.dataset.position);
  const socket = new WebSocket(url);
  socket.onopen = () => {
    attempts = 0;
    show("open", "Connected");
  };
  socket.onmessage = ({ data }) => {
    const template = document.createElement("template");
    template.innerHTML = data; // made by a template of Django, which has escaped what users wrote
    const row = template.content.firstElementChild;
    rows.dataset.position = row.dataset.position;
    const old = document.getElementById(row.id);
    if (old) old.replaceWith(row);
    else rows.prepend(row);
    while (rows.childElementCount > SHOWN) rows.lastElementChild.remove();
    localTimes();
  };
  socket.onclose = ({ code }) => {
    if (code === RELOAD) return location.reload();
    if (ENDED.includes(code)) return show("closed", "Logged out");
    show("connecting", "Reconnecting");
    // A random part, because all clients may have lost their connections at the same time.
    setTimeout(connect, Math.min(30, 2 ** attempts++) * (500 + Math.random() * 500));
  };
}

function localTimes() {
  for (const time of document.querySelectorAll("time")) time.textContent = new Date(time.dateTime).toLocaleString();
}

function show(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

localTimes();
connect();
