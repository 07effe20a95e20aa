"use strict";
// Items of a view are numbers: nodes, then boxes (modules), then the root box that holds everything.
// Only what is open is laid out: each open box by itself, in ranks from top to bottom, with a port on its upper
// edge for every value that comes in and one on its lower edge for every value that goes out.
(() => {
  const content = JSON.parse(document.getElementById("data").textContent);
  const { strings, kinds } = content;
  const $ = (id) => document.getElementById(id);
  const measure = document.createElement("canvas").getContext("2d");
  const BUDGET = 60; // items that are open at first, about
  const LIMIT = 4000; // items that "open level" may show
  const PORTS = 6; // separate ports on one side of a box, about
  const PAD = 16, HEAD = 30, GAP_X = 22, GAP_Y = 34;

  const state = { view: 0, chosen: null, all: false, x: 0, y: 0, k: 1 };
  const views = content.views.map(prepare);
  const view = () => views[state.view];

  // ---- data -------------------------------------------------------------------------------------------------

  function prepare(raw) {
    const count = raw.box.length, root = count + raw.boxes.length;
    const parent = new Int32Array(root + 1);
    raw.box.forEach((box, i) => { parent[i] = box < 0 ? root : count + box; });
    raw.boxes.forEach(([, , box], j) => { parent[count + j] = box < 0 ? root : count + box; });
    parent[root] = -1;
    const depth = new Int32Array(root + 1);
    for (let j = 0; j < raw.boxes.length; j++) depth[count + j] = depth[parent[count + j]] + 1;
    for (let i = 0; i < count; i++) depth[i] = depth[parent[i]] + 1;
    const takes = Array.from({ length: count }, () => []), gives = Array.from({ length: count }, () => []);
    for (const [a, b] of raw.edges) { takes[b].push(a); gives[a].push(b); }
    const largest = raw.edges.reduce((most, e) => Math.max(most, Number.isFinite(e[3]) ? e[3] : 0), 0);
    const names = new Map(raw.nodes.name.map((s, i) => [strings[s], i]));
    return { raw, count, root, parent, depth, takes, gives, largest, names, open: null, levels: new Map() };
  }

  const text = (v, i, field) => strings[v.raw.nodes[field][i]];
  const kindOf = (v, i) => text(v, i, "kind");
  const path = (v, b) => strings[v.raw.boxes[b - v.count][0]];
  const cls = (v, b) => strings[v.raw.boxes[b - v.count][1]];
  const isBox = (v, id) => id >= v.count;
  const isOpen = (v, id) => isBox(v, id) && v.open.has(id);
  const visible = (v, i) => state.all || !kinds[kindOf(v, i)].quiet;

  function* around(v, id) { // the boxes around an item, innermost first, without the root
    for (let b = v.parent[id]; b !== v.root && b >= 0; b = v.parent[b]) yield b;
  }

  function shortName(v, b) {
    const own = path(v, b), outer = v.parent[b] === v.root ? "" : path(v, v.parent[b]).split("@")[0];
    return outer && own.startsWith(outer + ".") ? own.slice(outer.length + 1) : own;
  }

  function opName(v, i) {
    const parts = text(v, i, "op").split(".");
    if (parts.length > 1 && !parts[0].includes(" ")) return parts[0] === "aten" ? parts[1] : parts.slice(0, 2).join(".");
    return ["input", "output", "parameter"].includes(parts[0].split(" ")[0]) ? text(v, i, "name") : parts[0];
  }

  // Children, links between them, and what each box holds; anew when the choice of nodes changes.
  function level(v) {
    if (v.levels.has(state.all)) return v.levels.get(state.all);
    const children = new Map([[v.root, []]]), links = new Map([[v.root, new Map()]]), holds = new Map();
    const enter = (id) => {
      const p = v.parent[id];
      if (!children.has(p)) { children.set(p, []); links.set(p, new Map()); enter(p); }
      children.get(p).push(id);
    };
    for (let i = 0; i < v.count; i++) {
      if (!visible(v, i)) continue;
      enter(i);
      for (const b of around(v, i)) {
        const held = holds.get(b) || {};
        held[kindOf(v, i)] = (held[kindOf(v, i)] || 0) + 1;
        holds.set(b, held);
      }
    }
    const add = (box, from, to, made, edge) => {
      const table = links.get(box), key = from + "," + to + "," + made;
      const link = table.get(key) || { from, to, made, live: 0, weight: 0, count: 0 };
      link.live |= edge[2]; link.weight += Number.isFinite(edge[3]) ? edge[3] : 0; link.count += 1;
      table.set(key, link);
    };
    for (const edge of v.raw.edges) {
      let [a, b] = edge;
      if (!visible(v, a) || !visible(v, b)) continue;
      const made = a;
      while (v.parent[a] !== v.parent[b]) { // climb to the box that holds both
        if (v.depth[a] >= v.depth[b]) { add(v.parent[a], a, outPort(made), made, edge); a = v.parent[a]; }
        else { add(v.parent[b], inPort(made), b, made, edge); b = v.parent[b]; }
      }
      if (a !== b) add(v.parent[a], a, b, made, edge);
    }
    const found = { children, links, holds, shared: share(v, links), layouts: new Map() };
    v.levels.set(state.all, found);
    return found;
  }

  // A box with many ports on one side has one port for all values there that no relevance runs along.
  function share(v, links) {
    const shared = new Map();
    for (const [box, table] of links) {
      const sides = { ins: new Map(), outs: new Map() };
      for (const { from, to, made, live } of table.values()) {
        if (from < 0) sides.ins.set(made, sides.ins.get(made) | live);
        if (to < 0) sides.outs.set(made, sides.outs.get(made) | live);
      }
      for (const side of ["ins", "outs"]) {
        const dead = sides[side].size > PORTS ? [...sides[side]].filter(([, live]) => !live) : [];
        sides[side] = new Set((sides[side].size - dead.length > 2 * PORTS ? [...sides[side]] : dead).map(([made]) => made));
      }
      for (const link of table.values()) {
        if (link.from < 0 && sides.ins.has(link.made)) link.from = inPort(v.count);
        if (link.to < 0 && sides.outs.has(link.made)) link.to = outPort(v.count);
      }
      shared.set(box, sides);
    }
    return shared;
  }
  const port = (v, box, side, made) => (level(v).shared.get(box)[side].has(made) ? v.count : made);
  const inPort = (node) => -1 - 2 * node;
  const outPort = (node) => -2 - 2 * node;

  function openAtFirst(v) {
    v.open = new Set([v.root]);
    const { children } = level(v);
    let shown = children.get(v.root).length, ring = children.get(v.root).filter((id) => isBox(v, id));
    for (let round = 0; ring.length && round < 4; round++) {
      const sum = ring.reduce((n, b) => n + children.get(b).length, 0);
      if (shown + sum > BUDGET && !(ring.length === 1 && shown < 5)) break;
      ring = ring.filter((b) => children.get(b).length > 1 || round === 0 && ring.length === 1);
      ring.forEach((b) => v.open.add(b));
      shown += sum;
      ring = ring.flatMap((b) => children.get(b).filter((id) => isBox(v, id)));
    }
  }

  function touched(v, id) { // forget the layouts that an item's size is part of
    for (const { layouts } of v.levels.values()) {
      for (let b = id; b >= 0; b = v.parent[b]) layouts.delete(b);
    }
  }

  function setOpen(v, box, open) {
    if (box === v.root || v.open.has(box) === open) return;
    open ? v.open.add(box) : v.open.delete(box);
    touched(v, box);
  }

  // ---- layout -----------------------------------------------------------------------------------------------

  const widths = new Map();
  function width(string, font) {
    const key = font + string;
    if (!widths.has(key)) { measure.font = font + ' system-ui, "Segoe UI", "DejaVu Sans", sans-serif'; widths.set(key, measure.measureText(string).width); }
    return widths.get(key);
  }

  function words(v, id) { // title and second line of an item
    if (!isBox(v, id)) {
      if (kindOf(v, id) === "missing") return [opName(v, id), "NO RULE  " + text(v, id, "shape")];
      return [opName(v, id), text(v, id, "shape")];
    }
    const held = level(v).holds.get(id) || {}, ops = Object.values(held).reduce((a, b) => a + b, 0);
    const lacks = held.missing ? `${held.missing} WITHOUT A RULE, ` : "";
    const short = cls(v, id).split(".").pop();
    return [shortName(v, id), lacks + (short ? short + ", " : "") + ops + (ops === 1 ? " op" : " ops")];
  }

  function size(v, id) {
    if (id < 0) return [2, 0];
    if (isOpen(v, id)) { const inner = layout(v, id); return [inner.w, inner.h]; }
    const [title, sub] = words(v, id);
    if (isBox(v, id)) return [Math.max(90, width("+ " + title, "600 13px"), width(sub, level(v).holds.get(id)?.missing ? "800 10.5px" : "10.5px")) + 24, 58];
    if (kindOf(v, id) === "missing") return [Math.max(width(title, "800 17px"), width(sub, "800 12px")) + 36, 60];
    return [Math.max(46, width(title, "13px"), width(sub, "10.5px")) + 18, sub ? 38 : 28];
  }

  function layout(v, box) {
    const { children, links, layouts } = level(v);
    if (layouts.has(box)) return layouts.get(box);
    const cells = new Map();
    const cell = (id) => {
      if (!cells.has(id)) { const [w, h] = size(v, id); cells.set(id, { id, w, h, rank: 0, x: 0, y: 0, up: [], down: [] }); }
      return cells.get(id);
    };
    children.get(box).forEach(cell);
    const wires = new Map(); // links that begin and end at the same places are drawn as one
    for (const link of links.get(box).values()) {
      const a = isOpen(v, link.from) ? link.from + ":" + port(v, link.from, "outs", link.made) : link.from;
      const b = isOpen(v, link.to) ? link.to + ":" + port(v, link.to, "ins", link.made) : link.to;
      const wire = wires.get(a + "|" + b) || { a, from: cell(link.from), to: cell(link.to), live: 0, weight: 0, count: 0,
        start: offset(v, link.from, "outs", link.made), end: offset(v, link.to, "ins", link.made) };
      wire.live |= link.live; wire.weight += link.weight; wire.count += link.count;
      wires.set(a + "|" + b, wire);
    }
    const list = [...wires.values()];
    const rows = order(route(rank([...cells.values()], list), list));
    straighten(rows);
    const made = measureUp(v, box, rows, cells, list);
    layouts.set(box, made);
    return made;
  }

  function offset(v, id, side, made) { // where on an open box's edge a value passes, from its middle
    if (!isOpen(v, id)) return 0;
    const inner = layout(v, id);
    return (inner[side].get(port(v, id, side, made)) ?? inner.w / 2) - inner.w / 2;
  }

  function rank(cells, wires) { // longest path from the top; a cycle between boxes is cut at its first item
    const isIn = (c) => c.id < 0 && c.id % 2 !== 0, isOut = (c) => c.id < 0 && c.id % 2 === 0;
    const into = new Map(cells.map((c) => [c, 0])), out = new Map(cells.map((c) => [c, []]));
    for (const w of wires) { into.set(w.to, into.get(w.to) + 1); out.get(w.from).push(w); }
    const waiting = new Set(cells), ready = cells.filter((c) => !into.get(c));
    let place = 0, last = 0;
    while (waiting.size) {
      const c = ready.length ? ready.shift() : waiting.values().next().value;
      if (!waiting.delete(c)) continue;
      c.place = place++;
      if (!isIn(c)) last = Math.max(last, c.rank = Math.max(c.rank, 1));
      for (const w of out.get(c)) {
        if (!waiting.has(w.to)) continue;
        w.to.rank = Math.max(w.to.rank, c.rank + 1);
        into.set(w.to, into.get(w.to) - 1);
        if (!into.get(w.to)) ready.push(w.to);
      }
    }
    for (const w of wires) w.back = w.from.place > w.to.place;
    for (const c of cells) if (isOut(c)) c.rank = 0;
    last = cells.reduce((most, c) => Math.max(most, c.rank), 0);
    for (const c of cells) if (isOut(c)) c.rank = last + 1;
    const fed = new Set(wires.filter((w) => !w.back).map((w) => w.to));
    for (const c of [...cells].sort((a, b) => b.place - a.place)) { // what nothing leads to sits just above its first user
      const users = out.get(c).filter((w) => !w.back);
      if (!fed.has(c) && !isIn(c) && users.length) c.rank = Math.max(1, Math.min(...users.map((w) => w.to.rank)) - 1);
    }
    return cells;
  }

  function route(cells, wires) { // long wires run through one empty cell per rank, shared by all from the same place
    const rows = [];
    const put = (c) => { (rows[c.rank] = rows[c.rank] || []).push(c); };
    [...cells].sort((a, b) => a.place - b.place).forEach(put);
    const chains = new Map();
    for (const w of wires) {
      w.through = [];
      if (w.back || w.to.rank <= w.from.rank) { w.back = true; continue; }
      const chain = chains.get(w.a) || [];
      chains.set(w.a, chain);
      for (let r = w.from.rank + 1; r < w.to.rank; r++) {
        const k = r - w.from.rank - 1;
        if (!chain[k]) {
          chain[k] = { id: null, w: 2, h: 0, rank: r, x: 0, y: 0, up: [], down: [], place: w.from.place };
          put(chain[k]);
          join(k ? chain[k - 1] : w.from, chain[k], k ? 0 : w.start, 0, w.live);
        }
      }
      w.through = chain.slice(0, w.to.rank - w.from.rank - 1);
      join(w.through.length ? w.through[w.through.length - 1] : w.from, w.to, w.through.length ? 0 : w.start, w.end, w.live);
    }
    for (let r = 0; r < rows.length; r++) rows[r] = rows[r] || [];
    return rows;
  }

  function join(a, b, start, end, live) {
    const pull = (live ? 3 : 1) * (a.id === null && b.id === null ? 8 : a.id === null || b.id === null ? 2 : 1);
    a.down.push({ other: b, mine: start, theirs: end, pull });
    b.up.push({ other: a, mine: end, theirs: start, pull });
  }

  function order(rows) { // a few sweeps of barycentres
    const settle = (row) => row.forEach((c, i) => { c.i = i; });
    rows.forEach(settle);
    const sweep = (row, side, next) => {
      if (!row.length) return;
      const scale = (c) => c.other.i + c.theirs / (c.other.w + 1); // ports of an open box count by where they are
      for (const c of row) {
        const near = c[side].filter((n) => n.other.rank === next);
        c.key = near.length ? near.reduce((s, n) => s + scale(n), 0) / near.length : c.i;
      }
      row.sort((a, b) => a.key - b.key || a.i - b.i);
      settle(row);
    };
    for (let pass = 0; pass < 4; pass++) {
      for (let r = 1; r < rows.length; r++) sweep(rows[r], "up", r - 1);
      for (let r = rows.length - 2; r >= 0; r--) sweep(rows[r], "down", r + 1);
    }
    return rows;
  }

  function straighten(rows) { // each row as near as it can be to what it is joined with, in its order
    for (const row of rows) { let x = 0; for (const c of row) { c.x = x + c.w / 2; x += c.w + GAP_X; } }
    for (let pass = 0; pass < 8; pass++) {
      const sides = pass > 5 ? ["up", "down"] : pass % 2 ? ["down"] : ["up"];
      const turn = pass % 2 ? [...rows].reverse() : rows;
      for (const row of turn) pack(row, row.map((c) => wish(c, sides)));
    }
  }

  function wish(c, sides) {
    let sum = 0, pull = 0;
    for (const side of sides) for (const n of c[side]) { sum += n.pull * (n.other.x + n.theirs - n.mine); pull += n.pull; }
    return pull ? [sum / pull, pull] : [c.x, 0.01];
  }

  function pack(row, wishes) { // least squares with distances kept: pool adjacent violators
    const blocks = [];
    let base = 0;
    row.forEach((c, i) => {
      if (i) base += (row[i - 1].w + c.w) / 2 + (c.id === null || row[i - 1].id === null ? GAP_X / 2 : GAP_X);
      c.base = base;
      blocks.push({ x: wishes[i][0] - base, pull: wishes[i][1], cells: [c] });
      while (blocks.length > 1 && blocks[blocks.length - 2].x > blocks[blocks.length - 1].x) {
        const b = blocks.pop(), a = blocks[blocks.length - 1];
        a.x = (a.x * a.pull + b.x * b.pull) / (a.pull + b.pull);
        a.pull += b.pull; a.cells.push(...b.cells);
      }
    });
    for (const block of blocks) for (const c of block.cells) c.x = block.x + c.base;
  }

  function measureUp(v, box, rows, cells, wires) {
    let left = Infinity, right = -Infinity;
    for (const c of rows.flat()) { left = Math.min(left, c.x - c.w / 2); right = Math.max(right, c.x + c.w / 2); }
    const title = box === v.root ? 0 : width("+ " + shortName(v, box), "600 13px") + width(words(v, box)[1], "10.5px") + 48;
    const w = Math.max(right - left + 2 * PAD, title), shift = (w - (right - left)) / 2 - left;
    let y = HEAD + 6, bottom = y;
    rows.forEach((row, r) => {
      const h = row.reduce((most, c) => Math.max(most, c.h), 0);
      for (const c of row) { c.x += shift; c.top = y; c.bottom = y + h; c.y = y + (h - c.h) / 2; }
      if (row.some((c) => c.id === null || c.id >= 0)) { bottom = y + h; y += h + GAP_Y; }
      else if (row.length) y += GAP_Y / 2;
    });
    const h = bottom + PAD;
    const ins = new Map(), outs = new Map();
    for (const c of cells.values()) {
      if (c.id >= 0) continue;
      if (c.id % 2 === 0) { outs.set(-c.id / 2 - 1, c.x); c.top = c.bottom = c.y = h; }
      else { ins.set((-c.id - 1) / 2, c.x); c.top = c.bottom = c.y = 0; }
    }
    const paths = wires.map((wire) => ({ ...wire, d: curve(wire) }));
    return { w, h, cells, paths, ins, outs };
  }

  function curve({ from, to, start, end, through }) {
    let x = from.x + start, y = from.y + from.h;
    let d = `M${x.toFixed(1)} ${y.toFixed(1)}`;
    const bend = (nx, ny) => {
      const m = Math.abs(ny - y) / 2 + (ny < y ? 30 : 0);
      d += Math.abs(nx - x) < 0.5 && ny >= y ? `V${ny.toFixed(1)}`
        : `C${x.toFixed(1)} ${(y + m).toFixed(1)} ${nx.toFixed(1)} ${(ny - m).toFixed(1)} ${nx.toFixed(1)} ${ny.toFixed(1)}`;
      x = nx; y = ny;
    };
    for (const c of through) { bend(c.x, c.top); if (c.bottom > c.top) { d += `V${c.bottom.toFixed(1)}`; y = c.bottom; } }
    bend(to.x + end, to.y);
    return d;
  }

  // ---- drawing ----------------------------------------------------------------------------------------------

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

  // ---- moving about -----------------------------------------------------------------------------------------

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

  function toggle(id) { // the box stays where it is on the screen
    const v = view(), before = drawn.get(id);
    setOpen(v, id, !v.open.has(id));
    render();
    const after = drawn.get(id);
    state.x += (before.x - after.x) * state.k; state.y += (before.y - after.y) * state.k;
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

  // ---- panel, legend, search --------------------------------------------------------------------------------

  function html(tag, attributes, ...parts) {
    const e = document.createElement(tag);
    for (const [k, value] of Object.entries(attributes)) k.startsWith("on") ? e.addEventListener(k.slice(2), value) : e.setAttribute(k, value);
    e.append(...parts);
    return e;
  }

  const number = (x) => typeof x === "string" ? x : x === 0 ? "0" : Math.abs(x) < 1e-3 || Math.abs(x) >= 1e6 ? x.toExponential(3) : String(+x.toPrecision(5));
  const chip = (kind) => html("span", { class: "chip", style: `background:${kind.fill};border-color:${kind.line}${kind.dashed ? ";border-style:dashed" : ""}` });
  const coded = (string) => string.split("``").map((part, i) => (i % 2 ? html("code", {}, part) : part));
  const rows = (...pairs) => html("dl", {}, ...pairs.filter(([, value]) => value !== "").flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, ...[value].flat())]));
  const link = (view, id, label) => html("button", { onclick: () => go(view, id) }, label);

  function links(title, ids, number) {
    if (!ids.length) return [];
    const shown = ids.slice(0, 40), v = views[number];
    const all = html("div", { class: "links" }, ...shown.map((i) => link(number, i, `${text(v, i, "name")}`)));
    if (ids.length > shown.length) all.append(` and ${ids.length - shown.length} more`);
    return [html("h3", {}, title), all];
  }

  function panel(v, id) {
    const parts = id === null ? aboutAll() : isBox(v, id) ? aboutBox(v, id) : aboutNode(v, id);
    $("panel").replaceChildren(...parts);
  }

  function aboutNode(v, i) {
    const kind = kinds[kindOf(v, i)], name = text(v, i, "name");
    const values = Object.entries(v.raw.numbers[i] || {}).map(([key, x]) => [key, number(x)]);
    const cut = state.view === 0 && content.missing[name];
    const modules = [...around(v, i)].reverse().map((b) => link(state.view, b, shortName(v, b)));
    const origin = views[0].names.get(text(v, i, "origin"));
    return [
      html("h2", {}, name),
      html("div", kindOf(v, i) === "missing" ? { class: "alarm" } : {}, chip(kind), kind.label),
      ...(cut ? [html("p", { class: "alarm" }, cut.length ? `If it passed nothing on, no relevance would reach ${cut.join(", ")}.` : "Every input has another path.")] : []),
      rows(["op", html("code", {}, text(v, i, "op"))], ["rule", text(v, i, "rule")], ["formula", text(v, i, "formula") && coded(text(v, i, "formula"))],
        ["shape", text(v, i, "shape")], ["dtype", text(v, i, "dtype")]),
      ...(values.length ? [html("h3", {}, "Relevance, summed over the batch"), rows(...values)] : []),
      ...(text(v, i, "source") ? [html("h3", {}, "Source"), html("pre", {}, text(v, i, "source"))] : []),
      ...(modules.length ? [html("h3", {}, "Module"), html("div", { class: "links" }, ...modules)] : []),
      ...links("Takes", v.takes[i], state.view),
      ...links("Gives to", v.gives[i], state.view),
      ...(origin !== undefined ? links("Made for this op of the model", [origin], 0) : []),
      ...twins(v, name),
    ];
  }

  function twins(v, name) {
    if (v !== views[0]) return [];
    const program = views[1];
    program.emitted = program.emitted || program.raw.nodes.origin.reduce((found, s, i) => {
      const list = found.get(strings[s]) || [];
      found.set(strings[s], [...list, i]);
      return found;
    }, new Map());
    const made = program.emitted.get(name) || [];
    const forward = (i) => text(program, i, "rule") === "forward";
    return [...links("Emitted: forward pass", made.filter(forward), 1), ...links("Emitted: its twin", made.filter((i) => !forward(i)), 1)];
  }

  function aboutBox(v, b) {
    const held = level(v).holds.get(b) || {};
    return [
      html("h2", {}, path(v, b)), html("div", {}, cls(v, b)),
      html("p", {}, html("button", { onclick: () => toggle(b) }, v.open.has(b) ? "close" : "open")),
      rows(...Object.entries(kinds).filter(([k]) => held[k]).map(([k, kind]) => [String(held[k]), [chip(kind), kind.label]])),
      ...([...around(v, b)].length ? [html("h3", {}, "Inside"), html("div", { class: "links" }, ...[...around(v, b)].reverse().map((o) => link(state.view, o, shortName(v, o))))] : []),
    ];
  }

  function aboutAll() {
    const keys = [["/", "search"], ["Tab, arrows", "walk along the wires"], ["Enter", "open or close a module"], ["Esc", "to the module around"],
      ["+ - 0", "zoom, show everything"], ["< >", "close or open a level"], ["t", "the other graph"], ["n", "next op without a rule"]];
    return [
      html("h2", {}, content.title), html("div", {}, `rules: ${content.rules}`),
      rows(...Object.entries(content.notes)),
      html("div", {}, views[0].largest ? "In the model, the wider a line, the more relevance runs along it." : "Give the model's inputs to see how much relevance runs along each line."),
      html("h3", {}, "Keys"),
      html("dl", {}, ...keys.flatMap(([key, what]) => [html("dt", {}, ...key.split(" ").flatMap((k) => [html("kbd", {}, k), " "])), html("dd", {}, what)])),
    ];
  }

  function legend() {
    const v = view(), counts = {};
    for (let i = 0; i < v.count; i++) counts[kindOf(v, i)] = (counts[kindOf(v, i)] || 0) + 1;
    const present = Object.entries(kinds).filter(([name, kind]) => counts[name] && (state.all || !kind.quiet));
    $("legend").replaceChildren(...present.map(([name, kind]) => html("span", name === "missing" ? { class: "alarm" } : {}, chip(kind), `${kind.label} ${counts[name]}`)));
    const hidden = Object.entries(kinds).reduce((sum, [name, kind]) => sum + (kind.quiet ? counts[name] || 0 : 0), 0);
    $("quiet").lastElementChild.textContent = `show all (${hidden} hidden)`;
    $("quiet").hidden = !hidden;
  }

  let hits = [], hit = 0;
  function search(query) {
    const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
    hits = [];
    hit = 0;
    const turns = [state.view, ...views.keys()].filter((n, i, all) => all.indexOf(n) === i);
    for (const n of wanted.length ? turns : []) {
      const v = views[n];
      v.index = v.index || Array.from({ length: v.root }, (_, id) => (isBox(v, id) ? `${path(v, id)} ${cls(v, id)}`
        : ["name", "op", "rule", "source"].map((f) => text(v, id, f)).join(" ") + " " + kinds[kindOf(v, id)].label + (v.parent[id] === v.root ? "" : " " + path(v, v.parent[id]))).toLowerCase());
      const found = [];
      for (let id = 0; id < v.root; id++) if (wanted.every((w) => v.index[id].includes(w))) found.push(id);
      const name = (id) => (isBox(v, id) ? path(v, id) : text(v, id, "name")).toLowerCase();
      const rank = (id) => (name(id) === wanted.join(" ") ? 0 : name(id).startsWith(wanted[0]) ? 1 : 2);
      found.sort((a, b) => rank(a) - rank(b) || isBox(v, b) - isBox(v, a) || a - b);
      hits.push(...found.map((id) => [n, id]));
    }
    offer(query);
  }

  function offer(query) {
    const first = Math.max(0, Math.min(hit - 20, hits.length - 50));
    const items = hits.slice(first, first + 50).map(([n, id], i) => {
      const v = views[n], box = isBox(v, id);
      return html("li", { role: "option", id: `hit${first + i}`, "aria-selected": first + i === hit, onmousedown: (e) => { e.preventDefault(); take(first + i); } },
        box ? path(v, id) : text(v, id, "name"),
        html("small", {}, (box ? cls(v, id).split(".").pop() : `${text(v, id, "op")} ${v.parent[id] === v.root ? "" : path(v, v.parent[id])}`) + (n === state.view ? "" : `, ${v.raw.name}`)));
    });
    if (query && !hits.length) items.push(html("li", {}, "nothing found"));
    $("hits").replaceChildren(...items);
    $("hits").hidden = !items.length;
    $("search").setAttribute("aria-expanded", items.length > 0);
    $("search").setAttribute("aria-activedescendant", hits.length ? `hit${hit}` : "");
    $("hits").querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  }

  function take(i) {
    if (!hits[i]) return;
    const [n, id] = hits[i];
    $("search").value = "";
    hits = [];
    offer("");
    go(n, id);
    choose(id);
  }

  // ---- events -----------------------------------------------------------------------------------------------

  function missingList() {
    const names = Object.keys(content.missing), v = views[0];
    if (!names.length) return;
    const one = names.length === 1;
    $("missing").hidden = false;
    $("missing").append(`${names.length} op${one ? "" : "s"} without a rule; the plain adjoint is used there. `, ...names.map((name) => {
      const i = v.names.get(name), cut = content.missing[name];
      return html("button", { onclick: () => go(0, i) }, `${text(v, i, "op")}  ${text(v, i, "source")}${cut.length ? `  (alone on the way to ${cut.join(", ")})` : ""}`);
    }));
  }

  let alarm = -1;
  function nextMissing() {
    const names = Object.keys(content.missing);
    if (!names.length) return;
    alarm = (alarm + 1) % names.length;
    go(0, views[0].names.get(names[alarm]));
  }

  const COMMANDS = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => fit(false), "<": () => levels(false), ">": () => levels(true),
    t: () => show((state.view + 1) % views.length), n: nextMissing, "/": () => $("search").focus(),
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const id = state.chosen, inside = $("picture").contains(event.target), v = view();
    const used = () => event.preventDefault();
    if (COMMANDS[event.key]) { used(); COMMANDS[event.key](); return; }
    if (!inside) return;
    if (event.key.startsWith("Arrow")) {
      used();
      if (id === null) { choose(level(v).children.get(v.root)[0]); nearBy(state.chosen); return; }
      const next = step(event.key);
      if (next !== null) { choose(next); nearBy(next); }
    } else if ((event.key === "Enter" || event.key === " ") && id !== null) {
      used();
      if (isBox(v, id)) { toggle(id); choose(id); }
    } else if (event.key === "Escape") {
      used();
      const outer = id === null || v.parent[id] === v.root ? null : v.parent[id];
      choose(outer);
      if (outer !== null) nearBy(outer); else $("picture").focus();
    }
  }

  function itemAt(target, y) { // an open box counts only at its head
    const group = target.closest?.(".item");
    if (!group) return null;
    const top = group.getBoundingClientRect().top;
    return isOpen(view(), group.item) && y - top > HEAD * state.k ? null : group.item;
  }

  function watchPointer() {
    const picture = $("picture");
    let from = null;
    picture.addEventListener("pointerdown", (e) => { if (e.button === 0) from = { x: e.clientX, y: e.clientY, sx: state.x, sy: state.y, moved: false, target: e.target }; });
    picture.addEventListener("pointermove", (e) => {
      if (!from) return;
      const dx = e.clientX - from.x, dy = e.clientY - from.y;
      if (!from.moved && Math.hypot(dx, dy) > 4) { from.moved = true; picture.classList.add("drag"); picture.setPointerCapture(e.pointerId); }
      if (from.moved) { state.x = from.sx + dx; state.y = from.sy + dy; place(); }
    });
    const end = (e) => {
      if (from && !from.moved && e.type === "pointerup") {
        const id = itemAt(from.target, e.clientY);
        if (id !== null && isBox(view(), id)) { state.chosen = id; toggle(id); }
        choose(id);
      }
      from = null;
      picture.classList.remove("drag");
    };
    picture.addEventListener("pointerup", end);
    picture.addEventListener("pointercancel", end);
    picture.addEventListener("wheel", (e) => {
      e.preventDefault();
      const area = picture.getBoundingClientRect();
      zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), e.clientX - area.left, e.clientY - area.top);
    }, { passive: false });
  }

  function watch() {
    $("title").append(content.title, html("small", {}, content.rules));
    content.views.forEach((raw, i) => $("views").append(html("button", { onclick: () => show(i) }, raw.name), " "));
    $("in").onclick = () => zoom(1.25);
    $("out").onclick = () => zoom(0.8);
    $("fit").onclick = () => fit(false);
    $("more").onclick = () => levels(true);
    $("less").onclick = () => levels(false);
    $("all").onchange = (e) => setAll(e.target.checked);
    $("search").addEventListener("input", (e) => search(e.target.value));
    $("search").addEventListener("blur", () => { $("hits").hidden = true; });
    $("search").addEventListener("keydown", (e) => {
      if (e.key === "Enter") take(hit);
      else if (e.key === "Escape") { e.target.value = ""; search(""); $("picture").focus(); }
      else if (e.key === "ArrowDown" || e.key === "ArrowUp") {
        e.preventDefault();
        hit = Math.max(0, Math.min(hits.length - 1, hit + (e.key === "ArrowDown" ? 1 : -1)));
        offer(e.target.value);
      }
    });
    document.addEventListener("keydown", onKey);
    watchPointer();
  }

  watch();
  missingList();
  show(content.first);
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
