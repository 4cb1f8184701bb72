/* The page "WebSockets" of the admin is live: the server sends its tables over a WebSocket when they have changed.
 * Where there is no WebSocket, the page is fetched again. */
(function () {
    "use strict";

    const AGAIN = 500;
    const RETRY = 5000;
    const page = document.querySelector(".gws");
    const state = document.getElementById("gws-state");
    const all = document.getElementById("gws-all");
    let socket = null;
    let timer = null;

    function show(text) {
        if (state.textContent !== text) {
            state.textContent = text;
        }
    }

    function replace(shown, fresh) {
        if (shown.innerHTML !== fresh.innerHTML) {
            shown.innerHTML = fresh.innerHTML;
        }
    }

    /* A row that stays keeps its checkbox and the focus. */
    function replaceRows(shown, fresh) {
        const kept = new Map(Array.from(shown.rows, (row) => [row.id, row]));
        const rows = Array.from(fresh.rows, function (row) {
            const old = kept.get(row.id);
            if (!old) {
                return row;
            }
            kept.delete(row.id);
            Array.from(row.cells).forEach(function (cell, number) {
                if (!cell.classList.contains("gws-select")) {
                    replace(old.cells[number], cell);
                }
            });
            return old;
        });
        kept.forEach((row) => row.remove());
        rows.forEach(function (row, number) {
            if (shown.rows[number] !== row) {
                shown.insertBefore(row, shown.rows[number] || null);
            }
        });
    }

    function update(html) {
        const fresh = new DOMParser().parseFromString(html, "text/html");
        fresh.querySelectorAll(".gws-update").forEach(function (part) {
            const shown = document.getElementById(part.id);
            if (shown && shown.tagName === "TBODY") {
                replaceRows(shown, part);
            } else if (shown) {
                replace(shown, part);
            }
        });
    }

    function connect() {
        if (socket || document.hidden) {
            return;
        }
        const url = new URL(page.dataset.live + location.search, location.href);
        let served = false;
        url.protocol = url.protocol.replace("http", "ws");
        socket = new WebSocket(url);
        socket.onmessage = function (event) {
            served = true;
            show("Live");
            update(event.data);
        };
        socket.onclose = function () {
            socket = null;
            if (document.hidden) {
                show("Paused");
            } else if (served) {
                timer = setTimeout(connect, AGAIN);
            } else {
                fetchPage();
            }
        };
    }

    async function fetchPage() {
        try {
            const response = await fetch(location.href, {cache: "no-store", redirect: "manual"});
            if (response.type === "opaqueredirect" || response.status === 403) {
                show("Not live: log in again, and reload this page");
                return;
            }
            if (!response.ok) {
                throw new Error(response.statusText);
            }
            update(await response.text());
            show("Not live: updated every " + RETRY / 1000 + " seconds");
        } catch {
            show("Not live: the server does not answer");
        }
        timer = setTimeout(connect, RETRY);
    }

    document.addEventListener("visibilitychange", function () {
        clearTimeout(timer);
        if (!document.hidden) {
            connect();
        } else if (socket) {
            socket.close();
        }
    });

    if (all) {
        all.hidden = false;
        all.addEventListener("change", function () {
            document.querySelectorAll("#gws-rows input").forEach(function (box) {
                box.checked = all.checked;
            });
        });
    }
    connect();
}());
