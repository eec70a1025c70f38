// What pages gain with JavaScript; none needs it. Loaded with `defer`, under a policy that allows no inline script.
"use strict";

function mark(form, sent) {
  form.toggleAttribute("data-sent", sent);
  for (const button of form.querySelectorAll("button[type=submit]")) button.toggleAttribute("data-waits", sent);
  const busy = form.querySelector("[data-busy]");
  if (busy) busy.textContent = sent ? busy.dataset.busy : "";
}

// One click, one request. Without this the hidden idempotency key makes the second request answer like the first.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-once]")) return;
  if (form.hasAttribute("data-sent")) event.preventDefault();
  else mark(form, true);
});

// Coming back with the browser's button shows the page as it was left: its forms may be sent again.
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) mark(form, false);
});

// Browsers honour `autofocus` once a document; a summary that htmx puts in takes the focus here.
document.addEventListener("htmx:after:swap", () => document.querySelector("[data-summary]")?.focus());
