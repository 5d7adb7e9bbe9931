// The figures are renewed while somebody looks.
import { one, fetchPart } from "./page.js";

setInterval(async () => {
  if (document.hidden) return;
  try {
    const text = await fetchPart(location.href, "live");
    if (!one("#live").contains(document.activeElement) && !one("#live").matches(":active")) one("#live").innerHTML = text;
  } catch { /* the banner says it */ }
}, 10000);
