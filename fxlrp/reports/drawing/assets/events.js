// What the user does.

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
