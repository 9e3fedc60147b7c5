// The server's interface: one picture in, its captions out.

const PATIENCE = 20; // times that a busy server is asked again

export class Refused extends Error {}

export async function model() {
  const answer = await fetch("/v1/model");
  if (!answer.ok) throw new Refused(`the server answers ${answer.status}`);
  return answer.json();
}

/** Captions of a File. Rejects with `Refused` and a reason for people; asks again while the server is busy. */
export async function captionsOf(file, { captions, beam, length, attention, limit }) {
  if (file.size > limit) throw new Refused(`The file is larger than ${Math.floor(limit / 1e6)} MB.`);
  if (file.size === 0) throw new Refused("The file is empty.");
  const wish = new URLSearchParams({ captions, max_length: length, attention });
  if (beam !== null) wish.set("beam_size", beam);
  for (let attempt = 0; ; attempt += 1) {
    const answer = await send(`/v1/captions?${wish}`, file);
    if (answer.ok) return answer.json();
    if (answer.status !== 503 || attempt === PATIENCE) throw new Refused(await reasonOf(answer));
    const seconds = Number(answer.headers.get("retry-after")) || 1;
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
    throw new Refused("The server does not answer. Is it still running?");
  }
}

async function reasonOf(answer) {
  try {
    const { error } = await answer.json();
    return error.charAt(0).toUpperCase() + error.slice(1) + ".";
  } catch {
    return `The server answers ${answer.status}.`;
  }
}
