// What is told of the chosen item, the legend, and the search.

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

function kept(v, b) { // what a ledger says of everything in a box
  const sums = {};
  for (const [i, row] of Object.entries(v.raw.numbers)) {
    if (![...around(v, i)].includes(b)) continue;
    for (const key of ["absorbed", "leaked", "stabiliser"]) if (key in row) sums[key] = (sums[key] || 0) + Number(row[key]);
  }
  return Object.entries(sums).map(([key, x]) => [key, number(x)]);
}

function aboutBox(v, b) {
  const held = level(v).holds.get(b) || {}, sums = kept(v, b);
  return [
    html("h2", {}, path(v, b)), html("div", {}, cls(v, b)),
    html("p", {}, html("button", { onclick: () => toggle(b) }, v.open.has(b) ? "close" : "open")),
    rows(...Object.entries(kinds).filter(([k]) => held[k]).map(([k, kind]) => [String(held[k]), [chip(kind), kind.label]])),
    ...(sums.length ? [html("h3", {}, "Relevance that stays here"), rows(...sums)] : []),
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
