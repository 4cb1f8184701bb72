"use strict";

// A browser cuts off what does not fit into a field with a maximum length and does not show that. This says how much it was.

for (const field of document.querySelectorAll("[maxlength]")) {
  const note = document.createElement("p");
  note.className = "cut";
  note.setAttribute("role", "status");
  (field.closest(".composer") ?? field).after(note);

  field.addEventListener("beforeinput", ({ data }) => {
    const added = (data ?? "").replace(/\r\n?/g, "\n").length;
    const over = field.value.length - (field.selectionEnd - field.selectionStart) + added - field.maxLength;
    note.textContent = over > 0 ? `Cut at ${field.maxLength} characters: the last ${over} did not fit.` : "";
  });
}
