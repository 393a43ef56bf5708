// Numbers as people read them, by unit.

const UNITS = {
  share: (value) => `${(100 * value).toFixed(1)}%`,
  count: (value) => (Number.isInteger(value) ? grouped(value) : figures(value)),
  nats: (value) => (value === 0 || Math.abs(value) >= 5e-4 ? minus(value.toFixed(3)) : figures(value)),
  seconds: (value) => duration(value),
  plain: (value) => (Number.isInteger(value) ? grouped(value) : figures(value)),
};

/** A number as it is written in its unit; a dash for none. Units without a way of their own are plain. */
export function show(value, unit = "plain") {
  return value === null || value === undefined ? "–" : (UNITS[unit] ?? UNITS.plain)(value);
}

/** A number on an axis: 1.5k, 20M. */
export function compact(value) {
  return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 });
}

/** The same on an axis: no digits that say nothing. */
export function tick(value, unit) {
  return (TICKS[unit] ?? show)(value, unit);
}

const TICKS = {
  share: (value) => `${trim((100 * value).toFixed(1))}%`,
  nats: (value) => figures(value),
  seconds: (value) =>
    value >= 60 && value < 3600 && value % 60 === 0 ? `${value / 60} min` : duration(value).replace(/ 0 min$/, ""),
};

/** Three significant digits; powers of ten beyond what reads well. */
function figures(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return minus(value.toExponential(1).replace(".0e", "e").replace("e+", "e"));
  return minus(size >= 1000 ? grouped(Math.round(value)) : trim(value.toPrecision(3)));
}

function duration(seconds) {
  if (seconds > 0 && seconds < 0.1) return `${figures(1000 * seconds)} ms`;
  if (seconds < 100) return `${figures(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  return `${grouped(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

export function grouped(value) {
  return minus(value.toLocaleString("en-US", { maximumFractionDigits: 0 }));
}

function trim(digits) {
  return digits.includes(".") && !digits.includes("e") ? digits.replace(/\.?0+$/, "") : digits;
}

function minus(text) {
  return text.replace("-", "−");
}

/** A name of the metrics as words. */
export function spelled(name) {
  return name.replaceAll("_", " ");
}

export function plural(count, noun) {
  return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** "a", "a and b", "a, b and c". */
export function listed(items) {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}`;
}
