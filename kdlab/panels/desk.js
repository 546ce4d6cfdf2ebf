// The controls of a StudyPanel: transport, progress, notes, mixing desk, last action, errors.
//
// The kernel sends two objects: `spec` (what stays until a student comes: students, terms, texts) and
// `live` (what changes). The page answers with messages { do, id, ... }. A control shows at once what
// was asked for; the next `live` from the kernel then shows what is so.
//
// The widget's module is this file with desk_students.js behind it (see desk.py).

const DECADES = 2; // the slider reaches from default / 100 to default * 100
const PATIENCE = 2500; // ms without an answer before the page says that the kernel is busy

const ICONS = {
  play: "M3 1.5v13l11-6.5z",
  pause: "M3 2h3.5v12H3zM9.5 2H13v12H9.5z",
  step: "M3 2v12l7-6zM11 2h2.5v12H11z",
  stop: "M2.5 2.5h11v11h-11z",
  fork: "M4 1.5v13M4 8.5c0-3 7-1.500 7-6M8.500 4.500l2.500-3 2.500 3",
  add: "M8 2.500v11M2.500 8h11",
};

// Lab takes arrow keys and the space bar for its own shortcuts, unless the focused element itself says no.
const KEYS_ARE_MINE = new Set(["button", "input", "select"]);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (KEYS_ARE_MINE.has(tag)) element.dataset.lmSuppressShortcuts = "true";
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const icon = (name) =>
  svg("svg", { viewBox: "0 0 16 16", class: "kd-icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

// A piece of the student's line as the plots draw it: colour, dashes and marker.
function swatch(look) {
  return svg(
    "svg",
    { viewBox: "0 0 34 12", class: "kd-swatch", "aria-hidden": "true", style: `--kd-light:${look.color};--kd-dark:${look.dark}` },
    svg("line", { x1: 1, y1: 6, x2: 33, y2: 6, "stroke-dasharray": look.dasharray }),
    svg("path", { d: look.marker }),
  );
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function transport(send) {
  const button = (action, label, title, message) =>
    make(
      "button",
      { type: "button", class: `kd-button kd-${action}`, title, "data-do": label, onclick: () => send(message) },
      icon(action),
      make("span", {}, label),
    );
  const buttons = [
    ["play", button("play", "Play", "Start, or go on (study.play())", { do: "play" })],
    ["pause", button("pause", "Pause", "Hold before the next step (study.pause())", { do: "pause" })],
    ["step", button("step", "Step 1", "Do one step, then hold (study.step(1))", { do: "step", n: 1 })],
    ["step", button("step", "Step 10", "Do ten steps, then hold (study.step(10))", { do: "step", n: 10 })],
    ["stop", button("stop", "Stop", "End now; Play goes on from here (study.stop())", { do: "stop" })],
  ];
  const element = make("div", { class: "kd-transport", role: "group", "aria-label": "Training" });
  element.append(...buttons.map(([, node]) => node));
  const update = (live) => {
    const focused = buttons.some(([key, node]) => node === document.activeElement && !live.buttons[key]);
    buttons.forEach(([key, node]) => (node.disabled = !live.buttons[key]));
    if (focused) buttons.find(([, node]) => !node.disabled)?.[1].focus(); // do not lose the keyboard's place
  };
  return { element, update };
}

function progress() {
  const state = make("span", { class: "kd-state", role: "status" });
  const bar = make("progress", { class: "kd-progress", max: 1, value: 0, "aria-label": "Training progress" });
  const text = make("span", { class: "kd-progress-text" });
  const element = make("div", { class: "kd-progress-row" }, state, bar, text);
  const update = (live) => {
    setText(state, live.label);
    state.dataset.state = live.state;
    if (live.progress.value === null) bar.removeAttribute("value");
    else bar.value = live.progress.value;
    setText(text, live.progress.text);
    text.dataset.step = live.progress.step;
  };
  return { element, update, claim: (label) => setText(state, label) };
}

function lastAction() {
  const code = make("code", { class: "kd-python-text" });
  const copy = make("button", {
    type: "button", class: "kd-button kd-copy", title: "Copy this line",
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        setText(copy, "Copied");
      } catch { // no clipboard on an unsafe (http) page: select the line instead
        getSelection().selectAllChildren(code);
        setText(copy, "Press Ctrl+C");
      }
      setTimeout(() => setText(copy, "Copy"), 1500);
    },
  }, "Copy");
  const element = make("div", { class: "kd-python" }, make("span", { class: "kd-python-label" }, "Same in Python"), code, copy);
  return { element, update: (live) => setText(code, live.code) };
}

// What the curves below show: traits of their own, so that a page loaded again finds them as they were.
function choices(model, spec) {
  const menu = (trait, label, options) => {
    const select = make(
      "select", { class: "kd-select", onchange: () => { model.set(trait, select.value); model.save_changes(); } },
    );
    const show = () => (select.value = model.get(trait));
    const offer = (all) => {
      select.replaceChildren(...all.map(([value, text]) => make("option", { value }, text)));
      show();
    };
    model.on(`change:${trait}`, show);
    offer(options);
    return [make("label", { class: "kd-choice" }, label, select), () => model.off(`change:${trait}`, show), offer];
  };
  const tick = (trait, label, title) => {
    const box = make("input", { type: "checkbox", onchange: () => { model.set(trait, box.checked); model.save_changes(); } });
    box.checked = model.get(trait);
    return make("label", { class: "kd-choice", title }, box, label);
  };
  const [curve, offCurve, offerCurves] = menu("curve", "Curve by step", spec.curves);
  const [seed, offSeed] = menu("seed", "Seed", spec.seeds);
  seed.hidden = spec.seeds.length < 3; // one seed: nothing to choose
  const element = make("div", { class: "kd-choices" }, curve,
    tick("log", "log scale", "Logarithmic axis of the curve by step"),
    tick("zoom", "zoom accuracy", "Show only the upper part of the accuracy axis, so that small differences can be seen"), seed);
  return { element, extend: (now) => offerCurves(now.curves), off: () => { offCurve(); offSeed(); } };
}

function errors(send) {
  const element = make("div", { class: "kd-errors", role: "alert" });
  let shown = null;
  const update = (live) => {
    if (JSON.stringify(live.errors) === shown) return;
    const more = shown !== null && live.errors.length > JSON.parse(shown).length;
    shown = JSON.stringify(live.errors);
    element.replaceChildren(
      ...live.errors.map((text, index) =>
        make(
          "div", { class: "kd-error" }, make("span", {}, text),
          make("button", { type: "button", class: "kd-dismiss", "aria-label": "Dismiss this message", onclick: () => send({ do: "dismiss", index }) }, "×"),
        )),
    );
    if (more) element.lastElementChild.scrollIntoView({ block: "nearest" });
  };
  return { element, update };
}

// What guards and drops did, in whole sentences.
function notes() {
  const element = make("div", { class: "kd-notes", role: "status", "aria-label": "Notes" });
  let shown = "";
  const update = (live) => {
    if (JSON.stringify(live.notes) === shown) return;
    shown = JSON.stringify(live.notes);
    element.replaceChildren(...live.notes.map((text) => make("div", { class: "kd-note" }, text)));
  };
  return { element, update };
}

// Tell the kernel whether the page is light or dark; the plots' colours follow.
function watchTheme(model) {
  const report = () => {
    const dark = document.body.dataset.jpThemeLight === "false";
    if (model.get("dark") !== dark) { model.set("dark", dark); model.save_changes(); }
  };
  const observer = new MutationObserver(report);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  report();
  return () => observer.disconnect();
}

function render({ model, el }) {
  const spec = model.get("spec");
  let asked = model.get("live").answered;
  let timer = 0;
  const busy = make("div", { class: "kd-busy", role: "status", hidden: true },
    "The kernel is busy with a cell and has not answered yet. It will do this as soon as it is free.");
  const send = (message) => {
    asked = Math.max(asked, model.get("live").answered) + 1;
    model.send({ ...message, id: asked });
    if (spec.requested[message.do]) where.claim(spec.requested[message.do]);
    clearTimeout(timer);
    timer = setTimeout(() => (busy.hidden = model.get("live").answered >= asked), PATIENCE);
    return asked;
  };
  const where = progress();
  const table = desk(spec, send);
  const parts = [transport(send), where, notes(), table, lastAction(), errors(send)];
  const title = make("div", { class: "kd-title" }, make("strong", {}, spec.title), make("span", {}, spec.subtitle));
  const root = make("div", { class: "kd-panel", role: "region", "aria-label": `Study panel: ${spec.title}` });
  const below = choices(model, spec);
  root.append(title, ...parts.map((part) => part.element), busy, below.element);
  const update = () => {
    const live = model.get("live");
    parts.forEach((part) => part.update(live));
    if (live.answered >= asked) busy.hidden = true;
  };
  const extend = () => {
    [table, below].forEach((part) => part.extend(model.get("spec")));
    update();
  };
  model.on("change:spec", extend);
  model.on("change:live", update);
  update();
  el.append(root);
  model.send({ do: "hello", id: 0 });
  const unwatch = watchTheme(model);
  return () => {
    model.off("change:spec", extend);
    model.off("change:live", update);
    clearTimeout(timer);
    unwatch();
    below.off();
  };
}

export default { render };
