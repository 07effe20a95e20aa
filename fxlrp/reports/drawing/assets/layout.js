// Where everything is.

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
  const empty = (a.id === null) + (b.id === null); // a long wire is straight, and does not draw what it ends at aside
  const pull = (live ? 3 : 1) * [1, 0.25, 8][empty];
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
