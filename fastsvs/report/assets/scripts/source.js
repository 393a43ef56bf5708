// Where the data come from: chunks inside the page, or the server that the page came from.

export const LIVE = document.documentElement.dataset.live === "true";

/** The value of a gzip stream of JSON. */
async function unpack(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const chunks = new Map(
  [...document.querySelectorAll("script[data-chunk]")].map((element) => [element.dataset.chunk, element]),
);

async function embedded(name) {
  const element = chunks.get(name);
  return element ? unpack(Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0))) : null;
}

const tags = new Map();

/** From the server: `{ changed: false }` while what it has is what was asked for last. */
export async function asked(name) {
  const headers = tags.has(name) ? { "If-None-Match": tags.get(name) } : {};
  const reply = await fetch(`data/${name}`, { cache: "no-store", headers });
  if (reply.status === 304) return { changed: false };
  if (!reply.ok) throw new Error((await reply.text()).trim() || reply.statusText);
  const value = await unpack(await reply.arrayBuffer());
  tags.set(name, reply.headers.get("ETag"));
  return { changed: true, value };
}

async function fetched(name) {
  tags.delete(name);
  return (await asked(name)).value;
}

/** One chunk by name: `head`, `groups/RUN`, `texts/RUN/STEP`, `tokens/RUN/STEP`, `answers/SHEET`,
 * `responses/SHEET/BLOCK`, `response_tokens/SHEET/BLOCK`. */
export const get = LIVE ? fetched : embedded;
