// Elements. Data becomes text nodes and attributes only, never markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== undefined));
  return node;
}

// Unchanged nodes are not touched: a selection and a screen reader stay where they are.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// Makes these the children of `parent`, with few moves.
export function setChildren(parent, nodes) {
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 60;
const HEIGHT = 18;

export function sparkline(kind = "spark") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", kind);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "path"));
  return svg;
}

// The newest value is at the right. Unknown values are gaps.
export function setSparkline(svg, values) {
  const maximum = Math.max(1e-9, ...values.map((value) => value ?? 0));
  const from = WIDTH - values.length;
  let path = "";
  let isDrawing = false;
  values.forEach((value, index) => {
    if (value === null) {
      isDrawing = false;
      return;
    }
    const y = HEIGHT - 1 - (value / maximum) * (HEIGHT - 2);
    path += `${isDrawing ? "L" : "M"}${from + index} ${y.toFixed(1)}`;
    isDrawing = true;
  });
  setAttribute(svg.firstChild, "d", path || "M0 0");
}

// One bar for each count, relative to the largest. A count that is not zero can be seen.
export function setBars(svg, counts) {
  const maximum = Math.max(...counts);
  const bar = (count, at) =>
    count ? `M${at} ${HEIGHT}v-${Math.max(1, (count / maximum) * HEIGHT).toFixed(1)}h.9V${HEIGHT}` : "";
  setAttribute(svg, "viewBox", `0 0 ${counts.length} ${HEIGHT}`);
  setAttribute(svg.firstChild, "d", counts.map(bar).join(""));
}

// A list of names and texts.
export function valueList(entries) {
  const rows = entries.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  return element("dl", { class: "values" }, ...rows);
}

export function table(columns, rows) {
  const classes = (column) => (column.number ? "number" : undefined);
  const head = columns.map((column) => element("th", { scope: "col", class: classes(column) }, column.label));
  const body = rows.map(({ cells, chosen }) =>
    element("tr", { class: chosen ? "chosen" : undefined },
      ...cells.map((cell, index) => element("td", { class: classes(columns[index]) }, cell))),
  );
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}
