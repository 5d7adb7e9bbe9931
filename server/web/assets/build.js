// A build is followed while it goes on; a downloaded file is checked.
import { one, fetchPart, lost, put } from "./page.js";
import { sumOf } from "./sum.js";

const state = one("#state");
const most = 2000; // lines of the log

function refreshed(text) {
  const box = document.createElement("template");
  box.innerHTML = text;
  const next = one("#pending", box.content), now = one("#pending", state);
  if (next && now) { // the log stays
    put(one("section", now), one("section", next).innerHTML);
    return true;
  }
  state.replaceChildren(box.content);
  const heading = one("h1", state);
  document.title = heading.textContent;
  heading.tabIndex = -1;
  heading.focus();
  return Boolean(next);
}

let refreshing = false, again = false;

// refresh shows how far the build is and tells whether it goes on.
async function refresh() {
  if (refreshing) {
    again = true;
    return true;
  }
  refreshing = true;
  try {
    return refreshed(await fetchPart(location.href, "state"));
  } finally {
    refreshing = false;
    if (again) {
      again = false;
      setTimeout(() => refresh().then(ended, () => {}), 0);
    }
  }
}

let events, poll;

function ended(goesOn) {
  if (goesOn) return;
  events?.close();
  clearTimeout(poll);
}

// ask polls as long as no events come.
function ask(wait) {
  clearTimeout(poll);
  poll = setTimeout(async () => {
    let goesOn = true;
    try {
      goesOn = await refresh();
      if (goesOn && events?.readyState === EventSource.CLOSED) follow();
    } catch { /* the banner says it */ }
    ended(goesOn);
    if (goesOn && events?.readyState !== EventSource.OPEN) ask(Math.min(wait * 1.5, 15000));
  }, wait);
}

function follow() {
  const pending = one("#pending");
  if (!pending) return;
  const log = one("#log");
  events = new EventSource(pending.dataset.events + (log.open ? "" : "?quiet"));
  log.addEventListener("toggle", () => { // its lines come only to those who look
    events.close();
    follow();
  }, { once: true });
  const update = () => refresh().then(ended, () => ask(2000));
  let seen = "";
  events.addEventListener("open", () => {
    lost(false);
    clearTimeout(poll);
    one("#lines")?.replaceChildren();
  });
  events.addEventListener("status", (event) => {
    const { status, queue_position: position, stage } = JSON.parse(event.data);
    const now = `${status} ${position} ${stage}`;
    if (now !== seen) update();
    seen = now;
  });
  events.addEventListener("stage", update);
  events.addEventListener("progress", (event) => {
    const { done, total } = JSON.parse(event.data), bar = one("#progress");
    if (!bar) return;
    if (total > 0) {
      bar.max = total;
      bar.value = done;
    } else {
      bar.removeAttribute("value");
    }
  });
  events.addEventListener("line", (event) => {
    const lines = one("#lines");
    if (!lines) return;
    const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
    lines.append(event.data + "\n");
    while (lines.childNodes.length > most) lines.firstChild.remove();
    if (atEnd) lines.scrollTop = lines.scrollHeight;
  });
  events.addEventListener("error", () => ask(1500));
}
follow();

state.addEventListener("change", async (event) => {
  if (event.target.id !== "checked" || !event.target.files.length) return;
  const file = event.target.files[0], told = one("#checked-is");
  const say = (kind, name = "") => {
    const file = document.createElement("bdi");
    file.textContent = name;
    told.replaceChildren(told.dataset[kind], " ", file);
    told.className = kind === "busy" ? "note" : kind;
  };
  say("busy");
  let sum = "";
  try {
    sum = await sumOf(file, (share) => { told.textContent = `${told.dataset.busy} ${Math.round(share * 100)} %`; });
  } catch { /* a file that cannot be read is none of them */ }
  const match = [...document.querySelectorAll("[data-sum]")].find((e) => e.dataset.sum === sum);
  say(match ? "good" : "bad", match?.dataset.name);
});
