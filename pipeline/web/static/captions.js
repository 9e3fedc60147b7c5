// The HTTP interface: one image in, its captions out.

const RETRIES = 20; // while the server answers 503

export class RequestError extends Error {
  /** `retry` says whether the same request may succeed later. */
  constructor(reason, { retry = false } = {}) {
    super(reason);
    this.retry = retry;
  }
}

export async function getModel() {
  const response = await fetch("/v1/model");
  if (!response.ok) throw new RequestError(`The server answers ${response.status}.`);
  return response.json();
}

/** Captions of a File. Retries while the server is busy. Rejects with a `RequestError` that states the reason. */
export async function captionsOf(file, { captions, beam, length, attention, limit }) {
  if (file.size > limit) throw new RequestError(`The file is larger than ${Math.floor(limit / 1e6)} MB.`);
  if (file.size === 0) throw new RequestError("The file is empty.");
  const query = new URLSearchParams({ captions, attention });
  if (length !== null) query.set("max_length", length);
  if (beam !== null) query.set("beam_size", beam);
  for (let attempt = 0; ; attempt += 1) {
    const response = await send(`/v1/captions?${query}`, file);
    if (response.ok) return response.json();
    if (response.status !== 503 || attempt === RETRIES) {
      const retry = response.status === 408 || response.status >= 500;
      throw new RequestError(await reasonOf(response), { retry });
    }
    const seconds = Number(response.headers.get("retry-after")) || 1;
    await new Promise((done) => setTimeout(done, seconds * 1000 * (1 + Math.random())));
  }
}

async function send(address, file) {
  try {
    return await fetch(address, {
      method: "POST",
      body: file,
      headers: { "content-type": "application/octet-stream" },
    });
  } catch {
    throw new RequestError("The server does not answer. Is it still running?", { retry: true });
  }
}

async function reasonOf(response) {
  try {
    const { error } = await response.json();
    return error.charAt(0).toUpperCase() + error.slice(1) + ".";
  } catch {
    return `The server answers ${response.status}.`;
  }
}
