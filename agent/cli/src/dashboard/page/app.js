// Connects the parts of the page to the stream of documents.

import { createChat } from "./chat.js";
import { byId, element, setAttribute, setText } from "./dom.js";
import { createFleet, IN_FLIGHT, TOKENS } from "./fleet.js";
import { plural, sum } from "./format.js";
import { createRequests } from "./requests.js";
import { follow, hasToken } from "./stream.js";

const fleet = createFleet(byId("fleet"), byId("filter"));
const requests = createRequests(byId("requests"), byId("requests-note"));
const chat = createChat();

function summary({ pods, gpus, nodes, replay }) {
  const models = new Set(pods.map((pod) => pod.model).filter(Boolean)).size;
  const parts = [
    plural(models, "model"), plural(pods.length, "pod"), plural(gpus.length, "GPU"), plural(nodes, "node"),
    `${sum(pods, IN_FLIGHT)} in flight`,
    `${sum(pods, TOKENS)} tok/s`,
  ];
  if (replay) parts.push(`recording: ${replay}`);
  return parts.join(" · ");
}

function showNotices(notices) {
  const list = byId("notices");
  if (list.children.length !== notices.length) list.replaceChildren(...notices.map(() => element("li")));
  notices.forEach((notice, index) => setText(list.children[index], notice));
}

let last;

// A page that is not seen is not drawn.
function take(state) {
  last = state;
  if (document.hidden) return;
  setText(byId("summary"), summary(state));
  showNotices(state.notices);
  fleet.update(state);
  requests.update(state.requests);
  chat.update(state);
}

function report(problem) {
  setText(byId("status"), problem ? `not live: ${problem}` : "live");
  setAttribute(byId("status"), "class", problem ? "down" : null);
}

document.addEventListener("visibilitychange", () => last && take(last));
byId("skip").addEventListener("click", (event) => {
  // The fragment is the token.
  event.preventDefault();
  byId("fleet").focus();
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("filter").focus();
  }
});

if (hasToken) follow(take, report);
else report("the address has no token: open the one that `forebay dashboard` printed");
addEventListener("hashchange", () => location.reload());
