// The selection is checked while it is made; packages are found by typing.
import { one, fetchPart, later } from "./page.js";

const form = one("#choose");
let going, renewing = 0; // the request under way, and how many of them renew the whole editor

// send puts one part of the page anew for what the form says now.
async function send(part, extra = {}) {
  going?.abort();
  const mine = going = new AbortController();
  const body = new URLSearchParams(new FormData(form));
  for (const [name, value] of Object.entries(extra)) body.set(name, value);
  const into = one(part === "editor" ? "#editor" : "#verdict");
  into.setAttribute("aria-busy", "true");
  if (part === "editor") renewing++;
  try {
    const text = await fetchPart(form.dataset.check, part, { method: "POST", body, signal: mine.signal });
    const focus = document.activeElement?.id;
    const opened = [...into.querySelectorAll("details")].map((d) => d.open);
    into.innerHTML = text;
    into.querySelectorAll("details").forEach((d, i) => { if (opened[i]) d.open = true; });
    if (focus && part === "editor") document.getElementById(focus)?.focus();
  } catch { /* the banner says it, or a newer selection is being checked */ }
  if (mine === going) into.removeAttribute("aria-busy");
  if (part === "editor") renewing--;
}

// A new editor is waited for: what is checked then is what it shows.
const check = later(() => { if (renewing) check(); else send("verdict"); }, 350);

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
  one("#found").replaceChildren();
  check();
}

let searching;
const search = later(async () => {
  const field = one("#more");
  searching?.abort();
  const word = field.value.trim().split(/[\s,]+/).pop();
  if (word.length < 2) {
    one("#found").replaceChildren();
    return;
  }
  searching = new AbortController();
  const address = new URL(field.dataset.search, location.href);
  address.searchParams.set("q", word);
  try {
    const text = await fetchPart(address, "found", { signal: searching.signal });
    if (field.value) one("#found").innerHTML = text;
  } catch { /* names can be typed all the same */ }
}, 250);

form.addEventListener("input", (event) => {
  if (event.target.id === "more") search();
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
    send("editor", { fix: fix.value }).then(() => { const h = one("#verdict-h"); if (h) { h.tabIndex = -1; h.focus(); } });
  }
});
