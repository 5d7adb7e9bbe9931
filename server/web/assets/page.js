// What every page does: remember the language, copy, tell when the server
// cannot be reached. Everything here saves steps; nothing needs it.

document.documentElement.classList.add("scripted");

export const one = (selector, within = document) => within.querySelector(selector);

const texts = document.body.dataset;

/** Shows or hides the banner that says that the server cannot be reached. */
export function lost(is) {
  const banner = one("#lost");
  banner.textContent = is ? texts.lost : "";
  banner.hidden = !is;
}

/** Fetches one part of a page; throws where the server has none. */
export async function replyPart(address, part, options) {
  const url = new URL(address, location.href);
  url.searchParams.set("part", part);
  const lang = new URLSearchParams(location.search).get("lang");
  if (lang && !url.searchParams.has("lang")) url.searchParams.set("lang", lang);
  else if (!lang) url.searchParams.set("lang", document.documentElement.lang);
  let reply;
  try {
    reply = await fetch(url, options);
  } catch (error) {
    if (error.name !== "AbortError") lost(true);
    throw error;
  }
  lost(false);
  if (!reply.headers.get("Content-Type")?.startsWith("text/html")) throw new Error(String(reply.status));
  return reply;
}

/** The text of one part of a page. */
export const fetchPart = async (...args) => (await replyPart(...args)).text();

/** Tells that a part is out of date, until done() or its next content. */
export const busy = (part) => part.setAttribute("aria-busy", "true");
export const done = (part) => part.removeAttribute("aria-busy");

/**
 * Puts a part in place. What was opened stays open; the keyboard stays on what
 * it was on, or goes to what the selector finds where that is gone.
 */
export function put(part, text, instead) {
  const at = document.activeElement, inside = at !== part && part.contains(at);
  const were = [...part.querySelectorAll("details")];
  part.innerHTML = text;
  part.querySelectorAll("details").forEach((d, i) => {
    if ((d.id ? were.find((w) => w.id === d.id) : were[i])?.open) d.open = true;
  });
  if (!inside) return;
  const same = [...part.querySelectorAll(at.localName)].find((e) => at.id ? e.id === at.id : e.isEqualNode(at));
  (same || instead && one(instead))?.focus({ preventScroll: true });
}

/** Calls f some time after the last of several calls. */
export function later(f, milliseconds) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(f, milliseconds, ...args);
  };
}

/**
 * Finds while somebody types. find(signal) has the part's content for what is
 * typed; from the first letter on the part is out of date, and what was under
 * way is given up.
 */
export function finder(part, instead, find) {
  let going;
  const begin = () => {
    going?.abort();
    going = new AbortController();
    busy(one(part));
    return going;
  };
  const now = async () => {
    const mine = begin();
    try {
      const text = await find(mine.signal);
      if (mine === going) put(one(part), text, instead);
    } catch { /* the banner says it, or something newer is being looked for */ }
    if (mine === going) done(one(part));
  };
  const soon = later(now, 250);
  return { now, soon: () => { begin(); soon(); } };
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // pages that come by plain http have no clipboard
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "hidden";
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-link]");
  if (!button) return;
  event.preventDefault();
  const link = "copyLink" in button.dataset;
  const focus = document.activeElement;
  if (link && navigator.share && matchMedia("(pointer: coarse)").matches) {
    try {
      await navigator.share({ title: document.title, url: button.href });
      return;
    } catch (error) {
      if (error.name === "AbortError") return;
    }
  }
  await copy(link ? button.href : button.dataset.copy);
  focus?.focus();
  let told = button.nextElementSibling;
  if (!told?.classList.contains("told")) {
    told = document.createElement("span");
    told.className = "told hint";
    told.setAttribute("role", "status");
    button.after(told);
  }
  told.textContent = " " + texts.copied;
  setTimeout(() => { told.textContent = ""; }, 3000);
});

// The language that was chosen once is taken where an address names none.
function remember() {
  let store;
  try {
    store = localStorage;
  } catch {
    return; // not allowed here
  }
  for (const a of document.querySelectorAll(".languages a")) {
    a.addEventListener("click", () => store.setItem("lang", a.lang));
  }
  const lang = store.getItem("lang");
  if (texts.guessed && lang && lang !== texts.guessed && !/^\/(check|build|recognize)$/.test(location.pathname)) {
    for (const a of document.querySelectorAll(".languages a")) {
      if (a.lang === lang) {
        const url = new URL(location.href);
        url.searchParams.set("lang", lang);
        location.replace(url);
      }
    }
  }
}
remember();

document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll(".languages[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const open of document.querySelectorAll(".languages[open]")) open.open = false;
});
addEventListener("online", () => lost(false));
addEventListener("offline", () => lost(true));
