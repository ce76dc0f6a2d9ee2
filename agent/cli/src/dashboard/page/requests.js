// The table of ended requests.

import { element, setText } from "./dom.js";
import { integer, seconds, text } from "./format.js";

function cells(request) {
  return [
    request.time.slice(11, 23),
    text(request.pod),
    request.aborted ? "aborted" : integer(request.status),
    seconds(request.ttftSeconds),
    seconds(request.durationSeconds),
    integer(request.responseBytes),
    integer(request.responseChunks),
  ];
}

export function createRequests(section, note) {
  const body = section.querySelector("tbody");

  return { update(requests) {
    const items = requests?.items ?? [];
    while (body.children.length < items.length) {
      const cell = (_, index) => element("td", { class: index > 2 ? "number" : undefined });
      body.append(element("tr", {}, ...Array.from({ length: 7 }, cell)));
    }
    while (body.children.length > items.length) body.lastChild.remove();
    items.forEach((request, row) => {
      cells(request).forEach((value, column) => setText(body.children[row].children[column], value));
    });
    setText(note, describe(requests, items.length));
  } };
}

function describe(requests, shown) {
  if (!requests) return "A recording has no ended requests.";
  const parts = [shown ? `The newest ${shown}, measured in the kernel.` : "None yet."];
  if (requests.missing) parts.push(`At least ${requests.missing} were not sent to this page.`);
  return parts.concat(requests.problems).join(" ");
}
