// The server's API: errors are its own words, answers come as its chunks.

const KEY = "visipruner-key";
// The page may be mounted below another path.
const BASE = location.pathname.replace(/\/?$/, "/");

class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// An answer of the server, or its reason for giving none.
async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = {
    ...(options.body ? { "Content-Type": "application/json" } : {}),
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
  };
  let response;
  try {
    response = await fetch(BASE + path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  throw new Failure(await reason(response), response.status);
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answers with status ${response.status}.`;
  }
}

const get = async (path) => (await request(path)).json();

// The chunks of a streamed answer. One that breaks off is an error, too.
async function* chunks(path, body, signal) {
  const response = await request(path, { method: "POST", body: JSON.stringify(body), signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.message);
    yield chunk;
  }
  throw new Failure("The connection broke off before the answer was complete.");
}

// The data of server-sent events, each on one line.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The connection broke off before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
