// Sends prompts through the gateway, and shows how each was decided. All of it stays in the memory of this page.

import { byId, element, setText, table, valueList } from "./dom.js";
import { decimal, integer, list, percent, seconds, text } from "./format.js";
import { failure, readEvents, request } from "./stream.js";

const MAX_DECISIONS = 20;
const MAX_ANSWER = 64 << 10;

export function createChat() {
  const [form, answer, send, stop, sent] = ["prompt-form", "answer", "send", "stop", "sent"].map(byId);
  let aborter;
  let models = "";

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    aborter = new AbortController();
    [send.disabled, stop.disabled] = [true, false];
    answer.textContent = "";
    setText(sent, "sent");
    try {
      setText(sent, await ask(aborter.signal));
    } catch (error) {
      setText(sent, error.name === "AbortError" ? "stopped" : error.message);
    }
    [send.disabled, stop.disabled] = [false, true];
  });
  stop.addEventListener("click", () => aborter?.abort());
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !send.disabled) form.requestSubmit();
  });

  // Returns how it ended.
  async function ask(signal) {
    const model = byId("model").value;
    const body = {
      model, prompt: byId("prompt").value, maxTokens: Number(byId("tokens").value), apiKey: byId("key").value,
    };
    const response = await request("/api/chat", {
      method: "POST", signal, body: JSON.stringify(body), headers: { "content-type": "application/json" },
    });
    if (!response.ok) throw new Error(await failure(response));
    const decision = { model, at: new Date(), head: undefined, usage: undefined };
    let [length, end] = [0, { error: "the response broke off" }];
    await readEvents(response, (name, data) => {
      if (name === "head") {
        decision.head = JSON.parse(data);
        decision.node = show(decision);
      } else if (name === "end") {
        end = JSON.parse(data);
      } else if (data !== "[DONE]") {
        const chunk = parse(data);
        decision.usage = chunk.usage ?? decision.usage;
        const delta = chunk.choices?.[0]?.delta;
        const piece = delta?.content ?? delta?.reasoning_content ?? chunk.error?.message ?? "";
        length += piece.length;
        if (length <= MAX_ANSWER) answer.append(piece);
      }
    });
    if (decision.usage) decision.node = show(decision, decision.node);
    const { status, error } = decision.head ?? {};
    if (error || end.error) return `${integer(status)} ${text(error ?? end.error)}`;
    return `${integer(status)} after ${seconds(end.seconds)}, ${integer(decision.usage?.completion_tokens)} tokens`;
  }

  // The newest is first and open.
  function show(decision, before) {
    const node = element("details", { open: "" }, ...describe(decision));
    const all = byId("decisions");
    if (before) {
      before.replaceWith(node);
    } else {
      for (const other of all.children) other.removeAttribute("open");
      all.prepend(node);
      if (all.children.length > MAX_DECISIONS) all.lastChild.remove();
    }
    return node;
  }

  return {
    update({ gateway, pods }) {
      byId("chat").hidden = !gateway;
      byId("no-gateway").hidden = Boolean(gateway);
      const names = [...new Set(pods.map((pod) => pod.model).filter(Boolean))].sort();
      if (names.join("\n") === models) return;
      models = names.join("\n");
      byId("models").replaceChildren(...names.map((name) => element("option", { value: name })));
      if (!byId("model").value && names.length) byId("model").value = names[0];
    },
  };
}

function parse(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    return {};
  }
}

const micros = (value) => (value == null ? "-" : seconds(value / 1e6));

function describe({ model, at, head, usage }) {
  const it = head.explanation;
  const served = it?.servedBy;
  const summary = `${at.toISOString().slice(11, 19)} ${model} → ${text(served)} (${integer(head.status)})`;
  const parts = [element("summary", {}, summary)];
  if (head.error) parts.push(element("p", {}, head.error));
  if (head.advice) parts.push(element("p", {}, head.advice));
  if (!it) return parts;
  parts.push(valueList([
    ["Listener", text(it.listener)], ["Base model", text(it.baseModel)], ["Route", text(it.rule)], ["Backend", text(it.backend)],
    ["Picked by", text(it.picker)], ["Time to read the model", micros(it.extractMicroseconds)], ["Time to pick", micros(it.pickMicroseconds)],
    ["Body read when picked", percent(it.bodyShareAtPick)], ["Time to response head", micros(it.upstreamMicroseconds)],
    ["Endpoints", list(it.endpoints)], ["Attempts", integer(it.attempts)], ["Prefix hit (measured)", measured(usage)],
  ]));
  if (it.decision) parts.push(scores(it.decision, served));
  else parts.push(element("p", {}, `No scores: ${text(it.noDecisionBecause)}`));
  return parts;
}

function measured(usage) {
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  return cached == null ? "-" : `${cached} of ${integer(usage.prompt_tokens)} tokens`;
}

function scores(decision, served) {
  const number = (label) => ({ label, number: true });
  const scorers = decision.scorers ?? [];
  const columns = [
    { label: "Endpoint" }, { label: "Pod" }, number("Score"), ...scorers.map((it) => number(`${it.name} ×${decimal(it.weight)}`)),
    number("In flight"), { label: "Source" }, number("Prefix hit (predicted)"), number("Added waiting"), { label: "Liveness" }, { label: "Excluded by" },
  ];
  const bytes = (it) => {
    if (it.cachedBytes == null) return "-";
    return decision.promptBytes ? `${it.cachedBytes} of ${decision.promptBytes} B` : `${it.cachedBytes} B`;
  };
  const rows = (decision.endpoints ?? []).map((it) => ({
    chosen: it.address === served,
    cells: [
      text(it.address), text(it.pod), decimal(it.total), ...scorers.map((_, index) => decimal(it.scores?.[index])), decimal(it.inFlight),
      text(it.loadSource), bytes(it), seconds(it.addedWaitingSeconds),
      it.liveness?.reason ? `${it.liveness.state}: ${it.liveness.reason}` : text(it.liveness?.state), text(it.excludedBy),
    ],
  }));
  const more = decision.moreEndpoints ? element("p", { class: "note" }, `and ${decision.moreEndpoints} more endpoints`) : undefined;
  const scroll = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores" }, table(columns, rows));
  return more ? element("div", {}, scroll, more) : scroll;
}
