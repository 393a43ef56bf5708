// A run that goes on: asks the server whether anything changed, and has the page drawn again when it did.

const POLL_SECONDS = 2;

/** Calls `redraw(head)` for every new state. The answer without a body (304) costs next to nothing. */
function follow(redraw) {
  const sign = byId("live");
  sign.hidden = false;
  const poll = async () => {
    try {
      if (!document.hidden) {
        const { changed, value } = await asked("head");
        if (changed) await redraw(value);
        sign.textContent = value?.runs.every(({ finished }) => finished) ? "finished" : sign.dataset.failed ? "live" : sign.textContent || "live";
        delete sign.dataset.failed;
      }
    } catch (error) {
      sign.textContent = error instanceof TypeError ? "server gone" : String(error.message);
      sign.dataset.failed = "true";
    }
    setTimeout(poll, 1000 * POLL_SECONDS);
  };
  setTimeout(poll, 1000 * POLL_SECONDS);
}
