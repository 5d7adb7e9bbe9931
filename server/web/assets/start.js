// Devices are found while their name is typed; files are opened in the browser.
import { one, fetchPart, later, put, busy, done } from "./page.js";

const form = one("#search");
if (form) {
  const field = one("#q"), list = one("#devices");
  let going;
  const leave = () => {
    going?.abort();
    going = undefined;
  };
  const find = async () => {
    leave();
    const mine = going = new AbortController();
    busy(list);
    const address = new URL(form.action);
    address.search = new URLSearchParams(new FormData(form));
    address.searchParams.set("q", field.value.trim());
    try {
      put(list, await fetchPart(address, "devices", { signal: mine.signal }), "#q");
      const shown = new URL(location.href);
      if (field.value.trim()) shown.searchParams.set("q", field.value.trim());
      else shown.searchParams.delete("q");
      shown.searchParams.delete("offset");
      history.replaceState(null, "", shown);
    } catch { /* the banner says it, or a newer word is being looked for */ }
    if (mine === going) done(list);
  };
  const soon = later(find, 250);
  field.addEventListener("input", () => {
    leave();
    busy(list);
    soon();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
}

const file = one("#file"), told = one("#file-is");
const say = (kind, n) => {
  told.className = ["taken", "text"].includes(kind) ? "good" : kind === "reading" ? "note" : "bad";
  told.textContent = told.dataset[kind].replace("{n}", n);
};
file.addEventListener("change", async () => {
  const chosen = file.files[0];
  if (!chosen) return;
  say("reading");
  try {
    const { textOf } = await import("./backup.js");
    const { text, packages } = await textOf(chosen);
    if (chosen !== file.files[0]) return; // another one has been chosen meanwhile
    one("#said").value = text;
    say(packages ? "taken" : "text", packages);
  } catch (error) {
    if (chosen === file.files[0]) say(error.message in told.dataset ? error.message : "damaged");
  }
});
