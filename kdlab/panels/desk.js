// The controls of a StudyPanel: transport, progress, mixing desk, last action, errors.
//
// The kernel sends two objects: `spec` (what never changes: students, terms, texts) and `live` (what
// does). The page answers with messages { do, id, ... }. A control shows at once what was asked for;
// the next `live` from the kernel then shows what is so.

const DECADES = 2; // the slider reaches from default / 100 to default * 100
const PATIENCE = 2500; // ms without an answer before the page says that the kernel is busy

const ICONS = {
  play: "M3 1.5v13l11-6.5z",
  pause: "M3 2h3.5v12H3zM9.5 2H13v12H9.5z",
  step: "M3 2v12l7-6zM11 2h2.5v12H11z",
  stop: "M2.5 2.5h11v11h-11z",
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

// One term of one student: switch, present value, slider, weight.
function cell(student, term, fixed, send) {
  const who = `${term} of ${student}`;
  const base = Math.abs(fixed.base) || 1;
  const set = (change) => send({ do: "set", student, term, ...change });
  const toSlider = (weight) => (weight ? Math.log10(Math.abs(weight) / base) : -DECADES);
  const toWeight = (position) => Number(((fixed.base < 0 ? -1 : 1) * base * 10 ** position).toPrecision(3));

  const onoff = make("input", {
    type: "checkbox", role: "switch", class: "kd-switch", "aria-label": `${who}: on or off`,
    onchange: () => { mark(); set({ enabled: onoff.checked }); },
  });
  const weight = make("input", {
    type: "number", step: "any", class: "kd-weight", "aria-label": `${who}: weight`, title: `Weight; ${fixed.base} by default`,
    onchange: () => {
      if (!Number.isFinite(weight.valueAsNumber)) weight.value = shown.weight;
      else { slider.value = toSlider(weight.valueAsNumber); set({ weight: weight.valueAsNumber }); }
    },
  });
  const slider = make("input", {
    type: "range", min: -DECADES, max: DECADES, step: 0.01, class: "kd-slider", "aria-label": `${who}: weight on a log scale`,
    title: "Drag to change the weight (log scale); double-click for the default",
    oninput: () => { weight.value = toWeight(Number(slider.value)); },
    onchange: () => { weight.value = toWeight(Number(slider.value)); set({ weight: Number(weight.value) }); },
    ondblclick: () => { slider.value = 0; weight.value = fixed.base; set({ weight: fixed.base }); },
  });
  const name = make("label", { class: "kd-term", title: fixed.doc }, onoff, term);
  const schedule = make("span", { class: "kd-schedule", title: "Schedule of the weight" });
  const raw = make("span", { class: "kd-raw", title: "Value now, before the weight" });
  const share = make("div", { class: "kd-share" });
  const element = make(
    "div", { class: "kd-cell", role: "group", "aria-label": who, "data-student": student, "data-term": term },
    make("div", { class: "kd-row" }, name, schedule, raw),
    make("div", { class: "kd-row" }, slider, weight),
    make("div", { class: "kd-track", title: "Share of the weighted loss", "aria-hidden": "true" }, share),
  );
  let shown = {};
  const mark = () => element.classList.toggle("kd-off", !onoff.checked);
  const update = (now, editable) => {
    for (const control of [onoff, weight, slider]) control.disabled = !editable;
    onoff.checked = now.enabled;
    const typing = document.activeElement === weight || document.activeElement === slider;
    if (!typing || shown.weight !== now.weight) { // do not write into what the user is changing
      weight.value = Number(now.weight.toPrecision(6));
      slider.value = toSlider(now.weight);
    }
    setText(raw, now.raw);
    share.style.width = `${Math.round(100 * now.share)}%`;
    setText(schedule, now.schedule === "constant" ? "" : now.schedule);
    mark();
    shown = now;
  };
  return { element, update };
}

// One student: its name and line, its method, its numbers, and a cell for each term of its loss.
function card(student, send) {
  const figures = make("div", { class: "kd-figures" });
  const cells = Object.entries(student.terms).map(([term, fixed]) => [term, cell(student.name, term, fixed, send)]);
  const element = make(
    "section", { class: "kd-card", "aria-label": `Student ${student.name}` },
    make("div", { class: "kd-student" }, swatch(student.look), make("span", { class: "kd-name" }, student.name)),
    make(
      "div", { class: "kd-method" },
      make("span", { title: student.paper }, student.method),
      make("span", { class: `kd-badge kd-${student.status}`, title: student.status_hint }, student.status_text),
    ),
    figures,
    ...cells.map(([, part]) => part.element),
  );
  const update = (live) => {
    setText(figures, live.numbers[student.name]);
    cells.forEach(([term, part]) => part.update(live.cells[student.name][term], live.editable));
  };
  return { element, update };
}

function desk(spec, send) {
  const cards = spec.students.map((student) => card(student, send));
  const element = make(
    "div", { class: "kd-desk", role: "group", "aria-label": "Switch and weight of every loss term of every student" },
    ...cards.map((one) => one.element),
  );
  return { element, update: (live) => cards.forEach((one) => one.update(live)) };
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
      ...options.map(([value, text]) => make("option", { value }, text)),
    );
    const show = () => (select.value = model.get(trait));
    model.on(`change:${trait}`, show);
    show();
    return [make("label", { class: "kd-choice" }, label, select), () => model.off(`change:${trait}`, show)];
  };
  const tick = (trait, label, title) => {
    const box = make("input", { type: "checkbox", onchange: () => { model.set(trait, box.checked); model.save_changes(); } });
    box.checked = model.get(trait);
    return make("label", { class: "kd-choice", title }, box, label);
  };
  const [curve, offCurve] = menu("curve", "Loss curve", spec.curves);
  const [seed, offSeed] = menu("seed", "Seed", spec.seeds);
  seed.hidden = spec.seeds.length < 3; // one seed: nothing to choose
  const element = make("div", { class: "kd-choices" }, curve,
    tick("log", "log scale", "Logarithmic axis of the loss"),
    tick("zoom", "zoom accuracy", "Show only the upper part of the accuracy axis, so that small differences can be seen"), seed);
  return { element, off: () => { offCurve(); offSeed(); } };
}

function errors(send) {
  const element = make("div", { class: "kd-errors", role: "alert" });
  let shown = "";
  const update = (live) => {
    if (JSON.stringify(live.errors) === shown) return;
    shown = JSON.stringify(live.errors);
    element.replaceChildren(
      ...live.errors.map((text, index) =>
        make(
          "div", { class: "kd-error" }, make("span", {}, text),
          make("button", { type: "button", class: "kd-dismiss", "aria-label": "Dismiss this message", onclick: () => send({ do: "dismiss", index }) }, "×"),
        )),
    );
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
  };
  const where = progress();
  const parts = [transport(send), where, desk(spec, send), lastAction(), errors(send)];
  const title = make("div", { class: "kd-title" }, make("strong", {}, spec.title), make("span", {}, spec.subtitle));
  const root = make("div", { class: "kd-panel", role: "region", "aria-label": `Study panel: ${spec.title}` });
  const below = choices(model, spec);
  root.append(title, ...parts.map((part) => part.element), busy, below.element);
  const update = () => {
    const live = model.get("live");
    parts.forEach((part) => part.update(live));
    if (live.answered >= asked) busy.hidden = true;
  };
  model.on("change:live", update);
  update();
  el.append(root);
  const unwatch = watchTheme(model);
  return () => { model.off("change:live", update); clearTimeout(timer); unwatch(); below.off(); };
}

export default { render };
