// What is seen, and moving about in it.

function svg(tag, attributes, parent) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, value] of Object.entries(attributes)) e.setAttribute(k, value);
  if (parent) parent.appendChild(e);
  return e;
}

const drawn = new Map(); // item -> its group, with its place in the world
function render() {
  const v = view(), world = $("world");
  drawn.clear();
  const fresh = svg("g", { id: "world" });
  drawInside(v, v.root, fresh, 0, 0);
  world.replaceWith(fresh);
  place();
  choose(state.chosen, false);
}

function drawInside(v, box, into, x0, y0) {
  const made = layout(v, box);
  const edges = svg("g", {}, into);
  for (const wire of made.paths) drawWire(v, wire, edges, x0, y0);
  for (const id of level(v).children.get(box)) {
    const c = made.cells.get(id);
    drawItem(v, id, into, x0 + c.x - c.w / 2, y0 + c.y, c.w, c.h);
  }
}

function drawWire(v, wire, into, x, y) {
  const strength = v.largest ? Math.sqrt(wire.weight / v.largest) : 0;
  const thick = !wire.live ? 1.1 : v.largest ? 0.8 + 7.2 * Math.min(1, strength) : 1.8;
  const e = svg("path", { d: wire.d, class: "edge" + (wire.live ? " live" : ""), "stroke-width": thick.toFixed(2),
    "stroke-opacity": wire.live ? 0.75 : 0.8, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, into);
  e.ends = [wire.from.id, wire.to.id];
  if (v.largest && wire.live) svg("title", {}, e).textContent = `${number(wire.weight)} of absolute relevance`;
}

function drawItem(v, id, into, x, y, w, h) {
  const group = svg("g", { class: "item", role: "button", tabindex: "-1", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, into);
  group.item = id;
  drawn.set(id, { group, x, y, w, h });
  const [title, sub] = words(v, id);
  if (!isBox(v, id)) { drawNode(v, id, group, title, sub, w, h); return; }
  drawBox(v, id, group, title, sub, w, h);
  if (!isOpen(v, id)) return;
  drawInside(v, id, into, x, y);
  const head = svg("g", { class: "head" + (group.classList.contains("lacks") ? " lacks" : ""), transform: group.getAttribute("transform") }, into);
  svg("text", { x: 12, y: 20, class: "title" }, head).textContent = "\u2212 " + title; // above the wires
  svg("text", { x: 24 + width("+ " + title, "600 13px"), y: 20, class: "sub count" }, head).textContent = sub;
}

function drawNode(v, id, group, title, sub, w, h) {
  const name = kindOf(v, id), kind = kinds[name];
  group.classList.add(name);
  if (name === "input") group.classList.add("dark");
  group.dataset.name = text(v, id, "name");
  group.setAttribute("aria-label", `${text(v, id, "name")}: ${text(v, id, "op")}, ${kind.label}`);
  svg("rect", { width: w, height: h, rx: 6, fill: kind.fill, stroke: kind.line, ...(kind.dashed ? { "stroke-dasharray": "5 3" } : {}) }, group);
  const big = name === "missing";
  svg("text", { x: w / 2, y: big ? 26 : sub ? 16 : h / 2 + 4.5, "text-anchor": "middle" }, group).textContent = title;
  if (sub) svg("text", { x: w / 2, y: big ? 46 : 30, "text-anchor": "middle", class: "sub" }, group).textContent = sub;
}

function drawBox(v, id, group, title, sub, w, h) {
  const open = isOpen(v, id), held = level(v).holds.get(id) || {};
  group.classList.add("box");
  if (open) group.classList.add("open", v.depth[id] % 2 ? "even" : "odd");
  if (held.missing) group.classList.add("lacks");
  group.dataset.path = path(v, id);
  group.setAttribute("aria-expanded", open);
  group.setAttribute("aria-label", `module ${path(v, id)}, ${sub}`);
  svg("rect", { width: w, height: h, rx: 8 }, group);
  if (open) return;
  svg("text", { x: 12, y: 20, class: "title" }, group).textContent = "+ " + title;
  svg("text", { x: 12, y: 36, class: "sub count" }, group).textContent = sub;
  const total = Object.values(held).reduce((a, b) => a + b, 0);
  let x = 12;
  for (const [name, kind] of Object.entries(kinds)) {
    const part = ((w - 24) * (held[name] || 0)) / total;
    if (part) svg("rect", { class: "part", x, y: 44, width: part, height: 6, fill: kind.fill, stroke: kind.line, "stroke-width": 0.7 }, group);
    x += part;
  }
}

function place() { $("world").setAttribute("transform", `translate(${state.x} ${state.y}) scale(${state.k})`); }

function zoom(factor, cx, cy) {
  const area = $("picture").getBoundingClientRect();
  cx = cx ?? area.width / 2; cy = cy ?? area.height / 2;
  const k = Math.min(4, Math.max(0.02, state.k * factor));
  state.x = cx - ((cx - state.x) * k) / state.k; state.y = cy - ((cy - state.y) * k) / state.k; state.k = k;
  place();
}

function fit(readable) {
  const { w, h } = layout(view(), view().root), area = $("picture").getBoundingClientRect();
  const whole = Math.min((area.width - 20) / w, (area.height - 20) / h, 1.4);
  state.k = readable ? Math.max(whole, Math.min(0.7, (area.width - 20) / w)) : whole;
  state.x = (area.width - w * state.k) / 2;
  state.y = h * state.k < area.height ? (area.height - h * state.k) / 2 : 6;
  place();
}

function centre(id) {
  const at = drawn.get(id), area = $("picture").getBoundingClientRect();
  if (!at) return;
  if (state.k < 0.75) state.k = 0.9;
  state.x = area.width / 2 - (at.x + at.w / 2) * state.k;
  state.y = area.height / 2 - (at.y + Math.min(at.h, area.height / state.k) / 2) * state.k;
  place();
}

function nearBy(id) { // scroll no more than is needed to see an item
  const at = drawn.get(id), area = $("picture").getBoundingClientRect();
  if (!at) return;
  const x = at.x * state.k + state.x, y = at.y * state.k + state.y;
  if (x < 0 || y < 0 || x + Math.min(at.w * state.k, 80) > area.width || y + Math.min(at.h * state.k, 40) > area.height) centre(id);
}

function toggle(id) { // the box stays where it is on the screen, unless it grows out of sight
  const v = view(), before = drawn.get(id), wide = $("picture").getBoundingClientRect().width - 20;
  setOpen(v, id, !v.open.has(id));
  render();
  const after = drawn.get(id), left = before.x * state.k + state.x;
  const fitting = Math.max(10, Math.min(left, wide + 10 - after.w * state.k));
  state.x += (before.x - after.x) * state.k + fitting - left; state.y += (before.y - after.y) * state.k;
  place();
}

function show(number) {
  state.view = number; state.chosen = null;
  if (!view().open) openAtFirst(view());
  [...$("views").children].forEach((b, i) => b.setAttribute("aria-pressed", i === number));
  legend();
  render();
  fit(true);
}

function go(number, id) { // open what is around an item, centre it, choose it
  if (state.view !== number) show(number);
  const v = view();
  if (!isBox(v, id) && !visible(v, id)) setAll(true);
  for (const b of around(v, id)) setOpen(v, b, true);
  state.chosen = id;
  render();
  centre(id);
}

function setAll(all) {
  state.all = all;
  $("all").checked = all;
  legend();
  render();
  if (state.chosen !== null) nearBy(state.chosen);
}

function levels(open) {
  const v = view(), { children } = level(v);
  const boxes = [...drawn.keys()].filter((id) => isBox(v, id));
  const closed = boxes.filter((id) => !v.open.has(id)), deepest = Math.max(0, ...boxes.filter((id) => v.open.has(id)).map((id) => v.depth[id]));
  const least = Math.min(...closed.map((id) => v.depth[id]));
  let room = LIMIT - drawn.size;
  for (const id of open ? closed.filter((b) => v.depth[b] === least) : boxes.filter((b) => v.open.has(b) && v.depth[b] === deepest)) {
    room -= children.get(id).length;
    if (!open || room > 0) setOpen(v, id, open);
  }
  render();
  fit(true);
}

function choose(id, focus = true) {
  const v = view();
  state.chosen = id !== null && drawn.has(id) ? id : null;
  for (const e of $("world").querySelectorAll(".chosen, .near")) e.classList.remove("chosen", "near");
  if (state.chosen !== null) {
    const { group } = drawn.get(id);
    group.classList.add("chosen");
    for (const e of $("world").querySelectorAll(".edge")) if (e.ends.includes(id)) e.classList.add("near");
    if (focus) group.focus({ preventScroll: true });
  }
  panel(v, state.chosen);
}

function step(key) { // from an item along the wires, or to what stands beside it
  const v = view(), id = state.chosen, made = layout(v, v.parent[id]), c = made.cells.get(id);
  if (key === "ArrowDown" || key === "ArrowUp") {
    const [mine, theirs] = key === "ArrowDown" ? ["from", "to"] : ["to", "from"];
    const near = made.paths.filter((w) => w[mine].id === id && w[theirs].id >= 0).sort((a, b) => b.live - a.live || b.weight - a.weight);
    return near.length ? near[0][theirs].id : null;
  }
  const row = [...made.cells.values()].filter((o) => o.id >= 0 && o.rank === c.rank).sort((a, b) => a.x - b.x);
  return row[row.indexOf(c) + (key === "ArrowRight" ? 1 : -1)]?.id ?? null;
}
