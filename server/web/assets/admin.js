// The operator's page: the token is asked for once, kept by this tab alone, and
// sent only as a header. What is shown is made by the server, as on every page.
import { one, lost, replyPart, put } from "./page.js";

const admin = one("#admin"), form = one("#enter"), field = one("#token");
const live = one("#live"), told = one("#told"), refusal = one("#refusal");

let token = "";
try {
  token = sessionStorage.getItem("token") || "";
} catch { /* not allowed here: the token is kept as long as the page */ }

function keep(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem("token", value);
    else sessionStorage.removeItem("token");
  } catch { /* as above */ }
}

const headers = () => ({ Authorization: `Bearer ${token}` });

/** Says what came of something; in English where the server says it. */
function say(text, bad = false) {
  told.lang = bad ? "en" : document.documentElement.lang;
  told.classList.toggle("bad", bad);
  told.textContent = text;
}

/** Asks for the token, below what was refused. */
function ask(why = "") {
  live.textContent = "";
  say("");
  refusal.innerHTML = why;
  form.hidden = false;
}

/** Tells whether the operator is in the middle of something that a renewal would disturb. */
function occupied() {
  const at = document.activeElement;
  return acting || one(".sure:not([hidden])") || !getSelection().isCollapsed || live.matches(":active") || live.contains(at) && !at.id;
}

let asking = 0, acting = false;

async function show(quiet = false) {
  const mine = ++asking, sent = token;
  let reply, text;
  try {
    reply = await replyPart(location.href, "live", { headers: headers() });
    text = await reply.text();
  } catch {
    return; // the banner says it
  }
  if (mine !== asking || sent !== token) return; // something newer is under way, or the operator has gone
  if (reply.status >= 500) {
    lost(true); // what was shown stays, and is asked for again
    return;
  }
  if (quiet && occupied()) return;
  if (reply.ok) {
    form.hidden = true;
    refusal.textContent = "";
    put(live, text, "#told");
    return;
  }
  if (reply.status === 401) keep("");
  const typed = form.contains(document.activeElement) || live.contains(document.activeElement);
  ask(text);
  if (typed) {
    field.focus();
    field.select();
  }
}

async function open() {
  say(admin.dataset.busy);
  await show();
  say("");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  keep(field.value.trim().replace(/[^!-~]/g, "?")); // others cannot be sent, and no token has them
  refusal.textContent = "";
  await open();
  if (!form.hidden) return;
  field.value = "";
  one("#sync").focus();
});

async function act(button) {
  if (acting) return;
  acting = true;
  say(admin.dataset.busy);
  try {
    const reply = await fetch(admin.dataset.api + button.dataset.do, { method: "POST", headers: headers() });
    lost(false);
    const body = await reply.json();
    say(reply.ok ? button.dataset.done.replace("{n}", body.documents) : body.detail, !reply.ok);
  } catch {
    say("");
    lost(true);
  } finally {
    acting = false;
  }
  await show();
}

function sure(open, is) {
  const button = one(`[data-sure="${open.id}"]`);
  open.hidden = !is;
  button.setAttribute("aria-expanded", String(is));
  (is ? one("[data-keep]", open) : button).focus();
}

live.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "leave") {
    keep("");
    ask();
    field.focus();
  } else if (button.dataset.do) act(button);
  else if (button.dataset.sure) sure(document.getElementById(button.dataset.sure), button.getAttribute("aria-expanded") === "false");
  else if ("keep" in button.dataset) sure(button.closest(".sure"), false);
});

live.addEventListener("keydown", (event) => {
  const open = event.target.closest(".sure");
  if (open && event.key === "Escape") sure(open, false);
});

setInterval(() => {
  if (token && form.hidden && !document.hidden && !occupied()) show(true);
}, 10000);

if (token) {
  form.hidden = true;
  open();
}
