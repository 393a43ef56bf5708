// A run that goes on: asks the server whether anything changed, and has the page drawn again when it did.

import { byId } from "./dom.js";
import { asked } from "./source.js";

const POLL_SECONDS = 2;

/** Calls `redraw(head)` for every new state. The answer without a body (304) costs next to nothing. */
export function follow(redraw) {
  say("live");
  const poll = async () => {
    if (!document.hidden) await look(redraw);
    setTimeout(poll, 1000 * POLL_SECONDS);
  };
  setTimeout(poll, 1000 * POLL_SECONDS);
}

async function look(redraw) {
  try {
    const { changed, value } = await asked("head");
    if (changed) await redraw(value);
    say("live");
  } catch (error) {
    say(error instanceof TypeError ? "the server is gone" : error.message, true);
  }
}

function say(text, failed = false) {
  const sign = byId("live");
  sign.hidden = false;
  if (sign.textContent !== text) sign.textContent = text;
  sign.toggleAttribute("data-failed", failed);
}
