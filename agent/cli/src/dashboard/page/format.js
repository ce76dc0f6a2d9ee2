// Texts of values. Unknown values are null or undefined in documents and "-" here, never 0.

export const UNKNOWN = "-";

const known = (value, text) => (value == null ? UNKNOWN : text(value));

export const integer = (value) => known(value, String);
export const percent = (ratio) => known(ratio, (it) => `${Math.round(it * 100)}%`);
export const text = (value) => (value ? String(value) : UNKNOWN);
export const list = (values) => text((values ?? []).join(", "));
export const watts = (milliwatts) => known(milliwatts, (it) => `${Math.floor(it / 1000)} W`);
export const unit = (name) => (value) => known(value, (it) => it + name);
export const megahertz = unit(" MHz");
export const gib = (bytes) => known(bytes, (it) => `${(it / 2 ** 30).toFixed(1)} GiB`);
export const decimal = (value) => known(value, (it) => String(Math.round(it * 1000) / 1000));

export const count = (value) =>
  known(value, (it) => (it < 9999.5 ? it.toFixed(0) : it < 999500 ? `${(it / 1e3).toFixed(0)}k` : `${(it / 1e6).toFixed(0)}M`));

// At most three digits.
export const seconds = (value) =>
  known(value, (it) => {
    if (it < 1e-3) return `${(it * 1e6).toFixed(0)} µs`;
    if (it < 1) return `${(it * 1e3).toFixed(0)} ms`;
    if (it < 100) return `${it.toFixed(1)} s`;
    return it < 6000 ? `${(it / 60).toFixed(0)} min` : `${(it / 3600).toFixed(0)} h`;
  });

export const age = (value) => known(value, (it) => (it < 1 ? "<1 s" : it < 100 ? `${Math.floor(it)} s` : seconds(it)));

export const plural = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

export const mark = (isOld, shown) => (isOld && shown !== UNKNOWN ? `${shown}*` : shown);

// The sum over pods. If some values are unknown it is a lower bound; if some are old it is marked.
export function sum(pods, { value, stale, sum: format }) {
  const known = pods.filter((pod) => value(pod) != null);
  if (known.length === 0) return UNKNOWN;
  const total = format(known.reduce((all, pod) => all + value(pod), 0));
  return mark(known.some(stale), known.length === pods.length ? total : `≥${total}`);
}
