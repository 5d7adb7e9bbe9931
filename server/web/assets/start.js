// Devices are found while their name is typed.
import { one, fetchPart, later } from "./page.js";

const form = one("#search");
if (form) {
  const field = one("#q"), list = one("#devices");
  let going;
  const find = async () => {
    going?.abort();
    going = new AbortController();
    const address = new URL(form.action);
    address.searchParams.set("q", field.value.trim());
    try {
      list.innerHTML = await fetchPart(address, "devices", { signal: going.signal });
      const shown = new URL(location.href);
      shown.searchParams.set("q", field.value.trim());
      shown.searchParams.delete("offset");
      history.replaceState(null, "", shown);
    } catch { /* the banner says it, or a newer word is being looked for */ }
  };
  field.addEventListener("input", later(() => { if (field.value.trim()) find(); }, 250));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
}
