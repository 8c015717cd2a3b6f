"use strict";
(() => {
const find = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
document.documentElement.classList.add("js");

const cards = find("#cards > li");
if (cards.length) {
  const filters = find("[data-filter]");
  const search = byId("search");
  const viewer = byId("viewer");
  let current = 0;
  const apply = () => {
    const mark = filters.find((button) => button.getAttribute("aria-pressed") === "true").dataset.filter;
    const words = search.value.trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      card.hidden = Boolean(mark && card.dataset.mark !== mark) || !card.dataset.key.includes(words);
      shown += card.hidden ? 0 : 1;
    }
    byId("shown").textContent = shown === cards.length ? "" : `${shown} of ${cards.length} shown`;
  };
  for (const button of filters) {
    button.addEventListener("click", () => {
      for (const other of filters) other.setAttribute("aria-pressed", String(other === button));
      apply();
    });
  }
  search.addEventListener("input", apply);
  const visible = () => cards.filter((card) => !card.hidden);
  const show = (card) => {
    current = cards.indexOf(card);
    const picture = card.querySelector("img");
    byId("viewer-picture").hidden = !picture;
    if (picture) byId("viewer-picture").src = picture.src;
    byId("viewer-code").textContent = card.querySelector(".code").textContent;
    byId("viewer-facts").textContent = card.querySelector("button").dataset.facts;
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    const list = visible();
    const next = list[(list.indexOf(cards[current]) + by + list.length) % list.length];
    if (next) show(next);
  };
  for (const card of cards) card.querySelector("button").addEventListener("click", () => show(card));
  for (const button of find("[data-step]", viewer)) button.addEventListener("click", () => step(Number(button.dataset.step)));
  viewer.querySelector("[data-close]").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
  });
  viewer.addEventListener("close", () => cards[current].querySelector("button").focus());
  byId("cards").addEventListener("keydown", (event) => {
    const list = visible();
    const index = list.indexOf(event.target.closest("li"));
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const to = { Home: 0, End: list.length - 1 }[event.key] ?? (by ? index + by : -1);
    if (list[to]) { event.preventDefault(); list[to].querySelector("button").focus(); }
  });
}

const area = byId("bars");
if (area) {
  const axis = byId("axis");
  const readout = byId("readout");
  const total = Number(axis.dataset.seconds);
  const bars = find("rect", area).filter((bar) => bar.querySelector("title"));
  const charts = find("svg.timed").map((svg) => ({ svg, height: svg.viewBox.baseVal.height, unit: svg.dataset.unit ? 1 : 1000 }));
  let start = 0;
  let width = total;
  let chosen = -1;
  const svgNode = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    axis.append(node);
  };
  const draw = () => {
    width = Math.min(Math.max(width, 0.01), total);
    start = Math.min(Math.max(start, 0), total - width);
    for (const chart of charts) chart.svg.setAttribute("viewBox", `${start * chart.unit} 0 ${width * chart.unit} ${chart.height}`);
    const raw = width / (axis.clientWidth > 600 ? 8 : 4);
    const power = 10 ** Math.floor(Math.log10(raw));
    const size = [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) * power;
    const digits = Math.max(0, -Math.floor(Math.log10(size) + 1e-9));
    axis.replaceChildren();
    for (let time = Math.ceil(start / size) * size; time <= start + width * 1.0001; time += size) {
      const percent = (100 * (time - start)) / width;
      svgNode("line", { x1: `${percent}%`, x2: `${percent}%`, y1: 0, y2: 4 });
      svgNode("text", { x: `${percent}%`, y: 14, "text-anchor": percent < 2 ? "start" : percent > 97 ? "end" : "middle" }, `${time.toFixed(digits)} s`);
    }
  };
  const zoom = { in: () => { start += width / 4; width /= 2; }, out: () => { start -= width / 2; width *= 2; }, left: () => { start -= width / 2; }, right: () => { start += width / 2; }, all: () => { start = 0; width = total; } };
  for (const button of find("[data-zoom]")) button.addEventListener("click", () => { zoom[button.dataset.zoom](); draw(); });
  const tell = (bar) => {
    for (const other of find(".on", area)) other.classList.remove("on");
    bar.classList.add("on");
    readout.textContent = bar.querySelector("title").textContent;
  };
  area.addEventListener("pointerover", (event) => {
    const bar = event.target.closest("rect");
    if (bars.includes(bar)) tell(bar);
  });
  area.addEventListener("keydown", (event) => {
    const keys = { "+": "in", "-": "out", "0": "all" };
    if (keys[event.key]) { zoom[keys[event.key]](); draw(); return; }
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !bars.length) return;
    event.preventDefault();
    chosen = (chosen + by + bars.length) % bars.length;
    const bar = bars[chosen];
    const at = bar.x.baseVal.value / 1000;
    if (at < start || at > start + width) { start = at - width / 2; draw(); }
    tell(bar);
  });
  addEventListener("resize", draw);
  draw();
}

const copy = byId("copy");
if (copy) {
  copy.addEventListener("click", async () => {
    const range = document.createRange();
    range.selectNodeContents(byId("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    try { await navigator.clipboard.writeText(byId("command").textContent); copy.textContent = "Copied"; } catch { copy.textContent = "Selected"; }
  });
}
})();
