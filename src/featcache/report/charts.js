"use strict";
// What every page has: reading its data, and charts that follow the colour scheme.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
// what Plotly would take for markup
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// Charts --------------------------------------------------------------------------------
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const resolve = (value) => {
  if (typeof value === "string") return value.replace(/^var\((--[\w-]+)\)$/, (_, name) => colour(name));
  if (Array.isArray(value)) return value.map(resolve);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, resolve(one)]));
  }
  return value;
};
const axis = (given = {}) => ({
  gridcolor: "var(--line)", zerolinecolor: "var(--line)", linecolor: "var(--line)", automargin: true,
  tickfont: { size: 12 }, ...given,
});
const layoutOf = (given) => {
  const layout = {
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 13, color: "var(--ink)" },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--accent)" },
    margin: { l: 56, r: 12, t: 24, b: 48 }, hoverlabel: { bgcolor: "var(--raised)", bordercolor: "var(--line)", font: { color: "var(--ink)" } },
    ...given,
  };
  for (const name of ["xaxis", "yaxis", "xaxis2", "yaxis2"]) {
    if (name in layout || !name.endsWith("2")) layout[name] = axis(layout[name]);
  }
  return resolve(layout);
};
const config = {
  responsive: true, displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "toggleSpikelines"],
};
// its buttons would cover what is in the corner of a small chart
const draw = (element, data, layout, buttons = false) =>
  Plotly.react(element, resolve(data), layoutOf(layout), { ...config, displayModeBar: buttons ? "hover" : false });
const redraws = [];  // of what follows the colour scheme

const chartsFrom = (figures) => {
  for (const element of all("[data-chart]")) {
    const figure = figures[element.dataset.chart];
    if (!figure || figure.kind === "confusion") continue;
    redraws.push(() => draw(element, figure.data, figure.layout));
  }
};

const redraw = () => redraws.forEach((one) => one());
const drawAll = () => {  // again when the colour scheme changes, and on paper
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
};
