// Questions to the service. Belongs here: the key, problems, streams, exact numbers. Does not belong here: what is shown.

const KEY = "blyan-key";
const EXACT = /"(?:[^"\\]|\\.)*"|(?<![\w.+-])-?\d{16,}(?![\w.])/g;

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** An answer that says no, as RFC 9457 has it. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail ?? document.title);
    Object.assign(this, document);
  }
}

/** JSON in which no digit is lost: whole numbers of 16 digits and more become texts, which JSON.parse would round. */
export const exactly = (text) => JSON.parse(text.replace(EXACT, (found) => (found[0] === '"' ? found : `"${found}"`)));

export const stopped = (error) => error?.name === "AbortError";

/** The response to a question, or a Problem. `body` is sent as JSON. */
export async function ask(path, { method, body, accept = "application/json", signal } = {}) {
  const headers = { accept };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    throw stopped(error) ? error : unreachable(error);
  }
  if (response.ok) return response;
  throw await problemOf(response, path);
}

async function problemOf(response, path) {
  const text = await response.text();
  let told;
  try {
    told = new Problem(JSON.parse(text));
  } catch {
    told = new Problem({ title: "The service did not answer as expected", status: response.status, detail: text.slice(0, 500), remedy: "ask the operator" });
  }
  if (response.status === 404 && told.detail === `nothing is served at ${path.split("?")[0]}`) {
    told = new Problem({ ...told, missing: true, title: "This service does not have that", remedy: "it is served by a newer version, or where the operator switched it on" });
  }
  if (response.status === 401) window.dispatchEvent(new CustomEvent("keyless", { detail: told }));
  return told;
}

const unreachable = (error) =>
  new Problem({ title: "The service cannot be reached", status: 0, detail: String(error.message ?? error), remedy: "check that it runs and that this machine reaches it, then try again" });

const broken = () =>
  new Problem({ title: "The answer broke off", status: 0, detail: "the connection ended before the answer did", remedy: "ask again; for many rows, save them or page through them" });

/** An answer as an object. `received` is told how many bytes have come. */
export async function json(path, options = {}) {
  const response = await ask(path, options);
  const decoder = new TextDecoder();
  const parts = [];
  let bytes = 0;
  try {
    const reader = response.body.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      bytes += next.value.length;
      parts.push(decoder.decode(next.value, { stream: true }));
      options.received?.(bytes);
    }
    return exactly(parts.join("") + decoder.decode());
  } catch (error) {
    throw stopped(error) ? error : broken();
  }
}

/** Server-sent events, one by one, until the stream ends; `opened` is called once it has begun. EventSource cannot send a key. */
export async function* events(path, options = {}) {
  const response = await ask(path, { ...options, accept: "text/event-stream" });
  options.opened?.();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let next;
      try {
        next = await reader.read();
      } catch (error) {
        throw stopped(error) ? error : broken();
      }
      if (next.done) return;
      const blocks = (rest + next.value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = eventOf(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(block) {
  const event = { event: "message", id: null, data: [] };
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") event.data.push(value);
    else if (name === "event" || name === "id") event[name] = value;
  }
  return event.data.length ? { ...event, data: event.data.join("\n") } : null;
}
