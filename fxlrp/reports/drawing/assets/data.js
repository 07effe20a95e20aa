// Items of a view are numbers: nodes, then boxes (modules), then the root box that holds everything.
// Only what is open is laid out: each open box by itself, in ranks from top to bottom, with a port on its upper
// edge for every value that comes in and one on its lower edge for every value that goes out.
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
