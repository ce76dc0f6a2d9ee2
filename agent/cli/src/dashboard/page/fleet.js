// The table of models, their pools, and the pods of these with their GPUs.

import { element, setAttribute, setBars, setChildren, setSparkline, setText, sparkline, table, valueList } from "./dom.js";
import { age, count, gib, integer, list, mark, megahertz, percent, plural, seconds, sum, text, unit, UNKNOWN, watts } from "./format.js";

const LEVELS = ["ok", "unknown", "suspect", "failed"];
const memory = ({ memoryUsedBytes: used, memoryTotalBytes: total }) => (used === null || !total ? null : used / total);

// `rank`: p0 is always shown, p3 only on wide screens. `value` is sorted by, `format` shows it.
function column(label, rank, help, source, read, format, sum) {
  return { label, rank, help, value: (pod) => read(pod[source]), format, stale: (pod) => pod[source].stale, sum };
}

export const IN_FLIGHT = column("In flight", "p0", "requests in flight, counted in the kernel", "kernel", (it) => it.inFlight, integer, String);
export const TOKENS = column("Tok/s", "p1", "generated tokens per second", "engine", (it) => it.tokensPerSecond, count, count);
const COLUMNS = [
  IN_FLIGHT,
  { label: "Load", rank: "p2", help: "in flight over the last minute", spark: (pod) => pod.kernel.inFlightHistory },
  column("Waiting", "p2", "of these, without content of the response yet", "kernel", (it) => it.waiting, integer, String),
  column("Oldest", "p2", "age of the oldest request in flight", "kernel", (it) => it.oldestRequestSeconds, seconds),
  column("TTFT p50", "p2", "time to first token, median of about a minute", "kernel", (it) => it.ttft?.p50Seconds, seconds),
  column("TTFT p99", "p1", "time to first token, 99th percentile", "kernel", (it) => it.ttft?.p99Seconds, seconds),
  column("ITL p50", "p3", "time between two tokens, median", "kernel", (it) => it.itl?.p50Seconds, seconds),
  TOKENS,
  column("Queue", "p3", "requests that wait in the engine", "engine", (it) => it.queue, integer, String),
  column("KV", "p2", "use of the engine's KV cache", "engine", (it) => it.kvCacheUsage, percent),
  column("Prefix", "p3", "prompt tokens found in the prefix cache, last minute", "engine", (it) => it.prefixCacheHits, percent),
  column("GPU", "p2", "mean utilisation of the pod's GPUs", "gpu", (it) => it.utilization, percent),
  column("GPU mem", "p3", "memory in use on these GPUs", "gpu", memory, percent),
  column("Power", "p3", "power of these GPUs", "gpu", (it) => it.powerMilliwatts, watts),
  { label: "Age", rank: "p2", help: "age of the older of kernel and engine values", value: (pod) => pod.ageSeconds, format: age, stale: (pod) => pod.stale },
];
const NAME = { label: "Pod", value: (pod) => pod.name };
const VERDICT = { label: "Verdict", rank: "p0", help: "whether it works, and why not", value: (pod) => LEVELS.indexOf(pod.verdict.level), first: -1 };
const ALL = [NAME, ...COLUMNS, VERDICT];

export function createFleet(root, filter) {
  const [head, body] = [root.tHead, root.tBodies[0]];
  const rows = new Map();
  // Models and pools that were closed, and pods that were opened.
  const toggled = new Set();
  let sort = { column: NAME, direction: 1 };
  let last;

  head.append(header());
  filter.addEventListener("input", draw);
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      filter.value = "";
      draw();
    }
  });
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches("button[aria-expanded]")) return;
    const buttons = [...body.querySelectorAll("button[aria-expanded]")];
    buttons[buttons.indexOf(event.target) + step]?.focus();
    event.preventDefault();
  });

  function header() {
    const cells = ALL.map((column) => {
      const cell = element("th", { scope: "col", class: column.rank, title: column.help });
      if (!column.value) {
        cell.append(column.label);
        return cell;
      }
      if (column.format) cell.classList.add("number");
      const button = element("button", { type: "button" }, column.label);
      button.addEventListener("click", () => {
        const first = column.first ?? (column.format ? -1 : 1);
        sort = { column, direction: sort.column === column ? -sort.direction : first };
        draw();
      });
      cell.append(button);
      return cell;
    });
    return element("tr", {}, ...cells);
  }

  function matches(pod) {
    const wanted = filter.value.trim().toLowerCase();
    const names = [pod.name, pod.namespace, pod.node, pod.address, pod.model, pod.verdict.text, ...pod.pools];
    return wanted === "" || names.some((name) => name?.toLowerCase().includes(wanted));
  }

  // Unknown is last, in both directions.
  function compare(one, other) {
    const [a, b] = [sort.column.value(one), sort.column.value(other)];
    if (a == null || b == null) return (a == null) - (b == null);
    return sort.direction * (typeof a === "string" ? a.localeCompare(b) : a - b);
  }

  function draw() {
    if (!last) return;
    ALL.forEach((column, index) => {
      const direction = sort.direction > 0 ? "ascending" : "descending";
      setAttribute(head.rows[0].cells[index], "aria-sort", sort.column === column ? direction : null);
    });
    const gpus = new Map(last.gpus.map((it) => [it.id, it]));
    const used = new Set();
    const nodes = [];
    const line = (key, create) => {
      used.add(key);
      if (!rows.has(key)) rows.set(key, create(key));
      const row = rows.get(key);
      nodes.push(row.node);
      return row;
    };
    const pods = last.pods.filter(matches);
    for (const [model, ofModel] of grouped(pods, (pod) => [pod.model ?? "no model known"])) {
      const isOpen = line(`model ${model}`, (key) => groupRow("model", model, key)).update(ofModel, "pods");
      if (!isOpen) continue;
      for (const [pool, ofPool] of grouped(ofModel, (pod) => (pod.pools.length ? pod.pools : ["no pool known"]))) {
        const key = `model ${model} pool ${pool}`;
        if (!line(key, (it) => groupRow("pool", pool, it)).update(ofPool)) continue;
        for (const pod of [...ofPool].sort(compare)) {
          const podKey = `${key} pod ${pod.id}`;
          if (line(podKey, podRow).update(pod)) {
            line(`${podKey} detail`, detailRow).update(pod, pod.gpus.map((id) => gpus.get(id)).filter(Boolean));
          }
        }
      }
    }
    if (nodes.length === 0) {
      const why = last.pods.length ? "No pod matches the filter." : "No pods yet.";
      nodes.push(element("tr", {}, element("td", { colspan: ALL.length }, why)));
    }
    setChildren(body, nodes);
    for (const key of rows.keys()) if (!used.has(key)) rows.delete(key);
  }

  function expander(key, name, isOpenAtFirst) {
    const button = element("button", { type: "button" }, ...name);
    const isOpen = () => toggled.has(key) !== isOpenAtFirst;
    const show = () => setAttribute(button, "aria-expanded", String(isOpen()));
    button.addEventListener("click", () => {
      if (!toggled.delete(key)) toggled.add(key);
      show();
      draw();
    });
    show();
    return { button, isOpen };
  }

  function groupRow(kind, name, key) {
    const { button, isOpen } = expander(key, [element("span", { class: "hidden" }, `${kind} `), name], true);
    const cells = COLUMNS.map((column) => element("td", { class: `${column.rank} number` }));
    const verdict = element("td", { class: "p0" });
    const node = element("tr", { class: kind }, element("th", { scope: "row" }, button), ...cells, verdict);
    const update = (pods) => {
      COLUMNS.forEach((column, index) => {
        if (column.sum) setText(cells[index], sum(pods, column));
      });
      const bad = pods.filter((pod) => ["suspect", "failed"].includes(pod.verdict.level)).length;
      setText(verdict, bad ? `${bad} of ${plural(pods.length, "pod")} not ok` : plural(pods.length, "pod"));
      return isOpen();
    };
    return { node, update };
  }

  function podRow(key) {
    const title = element("span");
    const { button, isOpen } = expander(key, [title], false);
    const cells = COLUMNS.map((column) =>
      column.spark
        ? element("td", { class: column.rank }, sparkline())
        : element("td", { class: `${column.rank} number` }));
    // What each cell shows: reading it from the cells of all pods takes longer.
    const before = [];
    const verdict = element("span", { class: "level" });
    const node = element("tr", { class: "pod" },
      element("th", { scope: "row" }, button), ...cells, element("td", { class: "p0" }, verdict));
    const update = (pod) => {
      setText(title, pod.name);
      COLUMNS.forEach((column, index) => {
        const cell = cells[index];
        if (column.spark) return setSparkline(cell.firstChild, column.spark(pod));
        const isOld = column.stale(pod);
        const shown = mark(isOld, column.format(column.value(pod)));
        if (shown === before[index]) return;
        before[index] = shown;
        cell.textContent = shown;
        cell.classList.toggle("stale", isOld && shown !== UNKNOWN);
      });
      showVerdict(verdict, pod.verdict);
      return isOpen();
    };
    return { node, update };
  }

  return {
    update(state) {
      last = state;
      draw();
    },
  };
}

function showVerdict(node, { level, text: shown, reason }) {
  setText(node, shown);
  setAttribute(node, "class", `level ${level}`);
  setAttribute(node, "title", reason ?? null);
}

// Names in order, with their pods.
function grouped(pods, names) {
  const groups = new Map();
  for (const pod of pods) {
    for (const name of names(pod)) {
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(pod);
    }
  }
  return [...groups].sort(([one], [other]) => one.localeCompare(other));
}

function podValues(pod) {
  const { kernel: k, engine: e, gpu: g } = pod;
  const of = (source, entries) => entries.map(([name, value]) => [name, mark(source.stale, value)]);
  return [
    ["Namespace", text(pod.namespace)], ["Node", text(pod.node)], ["Address", text(pod.address)],
    ...of(k, [
      ["In flight", integer(k.inFlight)], ["Waiting", integer(k.waiting)], ["Oldest request", seconds(k.oldestRequestSeconds)],
      ["TTFT p50 / p95 / p99", latencies(k.ttft)], ["ITL p50 / p95 / p99", latencies(k.itl)],
    ]),
    ["Kernel values are", k.off ? `off: ${k.off}` : `${age(k.ageSeconds)} old`],
    ...of(e, [
      ["Running in the engine", integer(e.running)], ["Queue in the engine", integer(e.queue)], ["Tokens per second", count(e.tokensPerSecond)],
      ["KV cache", percent(e.kvCacheUsage)], ["Prefix cache hits (measured)", percent(e.prefixCacheHits)],
    ]),
    ["Engine values are", e.off ? `off: ${e.off}` : `${age(e.ageSeconds)} old`],
    ...of(g, [["GPU utilisation", percent(g.utilization)], ["GPU power", watts(g.powerMilliwatts)], ["Slowest clock", megahertz(g.smClockMhz)]]),
  ];
}

const latencies = (it) => (it ? [it.p50Seconds, it.p95Seconds, it.p99Seconds].map(seconds).join(" / ") : "-");

const GPU_COLUMNS = ["GPU", "Health", "Utilisation", "Memory", "Power", "Clock", "Temperature", "Throttled by", "XID errors", "Age"];

function gpuCells(it) {
  const health = { ok: "ok", suspect: "degraded", failed: "lost", unknown: "-" }[it.level];
  const of = (value, limit) => (limit === "-" ? value : `${value} of ${limit}`);
  const cells = [
    unit("%")(it.utilizationPercent),
    of(gib(it.memoryUsedBytes), gib(it.memoryTotalBytes)),
    of(watts(it.powerMilliwatts), watts(it.powerLimitMilliwatts)),
    of(megahertz(it.smClockMhz), megahertz(it.smClockMaxMhz)),
    unit(" °C")(it.temperatureCelsius),
    list(it.throttleReasons),
    it.lastXid === null ? integer(it.xidErrors) : `${it.xidErrors}, last ${it.lastXid}`,
    age(it.ageSeconds),
  ];
  return [`${it.index} ${it.name}`, it.reason ? `${health}: ${it.reason}` : health, ...cells].map((cell) => mark(it.stale, cell));
}

// Made again when a text changes: nothing in it has the focus.
function detailRow() {
  const ttft = sparkline();
  const distributions = ["ttft", "itl"].map((key) => ({ key, svg: sparkline("bars") }));
  const content = element("div");
  const node = element("tr", { class: "detail" }, element("td", { colspan: ALL.length }, content));
  let shown = "";
  const update = (pod, gpus) => {
    const [values, cells] = [podValues(pod), gpus.map(gpuCells)];
    setSparkline(ttft, pod.kernel.ttftP99SecondsHistory);
    const ends = distributions.map(({ key, svg }) => {
      const { boundsSeconds: bounds, counts } = pod.kernel[key]?.buckets ?? { boundsSeconds: [], counts: [] };
      setBars(svg, counts);
      return [bounds[0], bounds.at(-1)].map((it) => mark(pod.kernel.stale, seconds(it)));
    });
    const now = JSON.stringify([values, cells, pod.verdict, ends]);
    if (now === shown) return;
    shown = now;
    const verdict = element("span");
    showVerdict(verdict, pod.verdict);
    const reason = element("p", { class: "reason" }, verdict, pod.verdict.reason ? `: ${pod.verdict.reason}` : "");
    const bars = distributions.flatMap(({ key, svg }, index) =>
      [` · ${key.toUpperCase()}: ${ends[index][0]} `, svg, ends[index][1]]);
    const trend = element("p", { class: "note" }, "Last minute: TTFT p99 ", ttft, ...bars);
    const columns = GPU_COLUMNS.map((label) => ({ label }));
    const ofGpus = gpus.length
      ? element("div", { class: "scroll" }, table(columns, cells.map((it) => ({ cells: it }))))
      : element("p", { class: "note" }, "No GPU of this pod is known.");
    content.replaceChildren(reason, valueList(values), trend, ofGpus);
  };
  return { node, update };
}
