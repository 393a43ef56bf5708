// Buttons that copy a text.

import { h } from "./dom.js";

const SAID_SECONDS = 1.5;

/** A button that copies what `text()` gives then; `what` says to a screen reader what that is. */
export function copyButton(what, text, label = "Copy") {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, label);
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text())) ? "Copied" : "Not allowed";
    setTimeout(() => (button.textContent = label), 1000 * SAID_SECONDS);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
