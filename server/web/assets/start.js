// Devices are found while their name is typed; files are opened in the browser.
import { one, fetchPart, finder } from "./page.js";

const form = one("#search");
if (form) {
  const search = finder("#devices", "#q", async (signal) => {
    const word = one("#q").value.trim(), address = new URL(form.action), shown = new URL(location.href);
    address.search = new URLSearchParams(new FormData(form));
    address.searchParams.set("q", word);
    const text = await fetchPart(address, "devices", { signal });
    if (word) shown.searchParams.set("q", word);
    else shown.searchParams.delete("q");
    shown.searchParams.delete("offset");
    history.replaceState(null, "", shown);
    return text;
  });
  one("#q").addEventListener("input", search.soon);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search.now();
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
