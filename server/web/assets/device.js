// The selection is checked while it is made; packages are found by typing.
import { one, fetchPart, later, finder, put, busy, done } from "./page.js";

const form = one("#choose");
let going, renewing = 0; // the request under way, and how many of them renew the whole editor
let waiting = false; // a check is to come

// send puts one part of the page anew for what the form says now.
async function send(part, extra = {}) {
  going?.abort();
  const mine = going = new AbortController();
  const body = new URLSearchParams(new FormData(form));
  for (const [name, value] of Object.entries(extra)) body.set(name, value);
  const into = one(part === "editor" ? "#editor" : "#verdict");
  busy(into);
  if (part === "editor") renewing++;
  try {
    put(into, await fetchPart(form.dataset.check, part, { method: "POST", body, signal: mine.signal }), "#verdict-h");
  } catch { /* the banner says it, or a newer selection is being checked */ }
  if (mine === going) ["#editor", "#verdict"].forEach((part) => done(one(part)));
  if (waiting) busy(one("#verdict"));
  if (part === "editor") renewing--;
}

// A new editor is waited for: what is checked then is what it shows.
const soon = later(() => {
  if (renewing) {
    soon();
    return;
  }
  waiting = false;
  send("verdict");
}, 350);
function check() {
  waiting = true;
  busy(one("#verdict"));
  soon();
}

function add(names) {
  const chips = one("#chips");
  for (const name of names) {
    const there = [...form.elements].find((e) => (e.name === "p" || e.name === "keep") && e.value === name);
    if (there) {
      there.checked = true;
      continue;
    }
    const chip = one("#chip").content.cloneNode(true);
    one("input", chip).value = name;
    one("bdi", chip).textContent = name;
    chips.append(chip);
  }
  one("#more").value = "";
  search.now();
  check();
}

const search = finder("#found", "#more", async (signal) => {
  const field = one("#more"), word = field.value.trim().split(/[\s,]+/).pop();
  if (word.length < 2) return "";
  const address = new URL(field.dataset.search, location.href);
  address.searchParams.set("q", word);
  return fetchPart(address, "found", { signal });
});

form.addEventListener("input", (event) => {
  if (event.target.id === "more") search.soon();
  else if (event.target.name !== "version" && !("reload" in event.target.dataset)) check();
});
form.addEventListener("change", (event) => {
  if (event.target.name === "version") send("editor");
  else if ("reload" in event.target.dataset) send("editor", { recount: 1 });
});
form.addEventListener("keydown", (event) => {
  if (event.target.id !== "more" || event.key !== "Enter") return;
  event.preventDefault(); // would make the image
  const names = event.target.value.split(/[\s,;]+/).filter(Boolean);
  if (names.length) add(names);
});
// Some telephones' keyboards press Enter without telling: that presses the
// form's first button, which nobody sees who has scripts.
form.addEventListener("submit", (event) => {
  if (!event.submitter?.closest(".nojs")) return;
  event.preventDefault();
  add(one("#more").value.split(/[\s,;]+/).filter(Boolean));
});
form.addEventListener("click", (event) => {
  const found = event.target.closest("[data-add]");
  if (found) {
    const typed = one("#more").value.trim().split(/[\s,;]+/).slice(0, -1).filter(Boolean);
    add([...typed, found.dataset.add]);
    one("#more").focus();
  }
  if (event.target.id === "add") add(one("#more").value.split(/[\s,;]+/).filter(Boolean));
  const fix = event.target.closest("button[name=fix]");
  if (fix) {
    event.preventDefault();
    send("editor", { fix: fix.value }).then(() => one("#verdict-h")?.focus());
  }
});
