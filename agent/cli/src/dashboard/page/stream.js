// The API of the server, with the token of the printed address.

const token = location.hash.slice(1);
const MAX_EVENT = 32 << 20;
const RETRY_MS = [500, 1000, 2000, 5000];

export const hasToken = token !== "";

export function request(path, options = {}) {
  return fetch(path, { ...options, headers: { ...options.headers, authorization: `Bearer ${token}` }, cache: "no-store" });
}

// The message of a response that is not ok.
export async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server responded with ${response.status}`;
  }
}

// Calls `take(name, data)` for each event, until the response ends.
export async function readEvents(response, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split(/\r?\n\r?\n/);
    rest = events.pop();
    if (rest.length > MAX_EVENT) throw new Error("an event is too long");
    for (const event of events) {
      let name = "message";
      const data = [];
      for (const line of event.split(/\r?\n/)) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trim());
      }
      if (data.length) take(name, data.join("\n"));
    }
  }
}

// Follows the documents, with reconnects. `report(problem)`: null when a document has arrived.
export async function follow(take, report) {
  let failures = 0;
  for (;;) {
    try {
      const response = await request("/api/events");
      if (!response.ok) throw new Error(await failure(response));
      await readEvents(response, (_name, data) => {
        failures = 0;
        take(JSON.parse(data));
        report(null);
      });
      report("the server ended the stream");
    } catch (error) {
      report(error instanceof TypeError ? "forebay dashboard does not respond" : error.message);
    }
    const pause = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}
