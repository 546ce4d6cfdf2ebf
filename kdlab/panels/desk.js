// The controls of a StudyPanel: transport, progress, notes, mixing desk, last action, errors.
//
// The kernel sends two objects: `spec` (what stays until a student comes: students, terms, texts) and
// `live` (what changes). The page answers with messages { do, id, ... }. A control shows at once what
// was asked for; the next `live` from the kernel then shows what is so.
//
// What is asked for once (a method's card, how a schedule would run) is answered by a message of its own.
// The widget's module is parts.js, this file, desk_forms.js, desk_terms.js and desk_students.js (see desk.py).

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
    ["step", button("step", "Step epoch", "Do the steps left of this epoch, then hold (study.step(n))", { do: "step", n: "epoch" })],
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

function render({ model, el }) {
  const spec = model.get("spec");
  const kernel = questions(model);
  const send = (message) => {
    if (spec.requested[message.do]) where.claim(spec.requested[message.do]);
    return kernel.send(message);
  };
  const where = progress();
  const table = desk(spec, send);
  const parts = [transport(send), where, notes(), table, lastAction(), errors(send), kernel];
  const title = make("div", { class: "kd-title" }, make("strong", {}, spec.title), make("span", {}, spec.subtitle));
  const root = make("div", { class: "kd-panel", role: "region", "aria-label": `Study panel: ${spec.title}` });
  const below = choices(model, spec);
  root.append(title, ...parts.map((part) => part.element), below.element);
  const update = () => {
    const live = model.get("live");
    parts.forEach((part) => part.update(live));
  };
  const extend = () => {
    [table, below].forEach((part) => part.extend(model.get("spec")));
    update();
  };
  model.on("change:spec", extend);
  model.on("change:live", update);
  const lines = () => table.draw(model.get("sparks"));
  model.on("change:sparks", lines);
  model.on("msg:custom", table.hear);
  update();
  lines();
  el.append(root);
  const unwatch = watchTheme(model);
  return () => {
    model.off("change:spec", extend);
    model.off("change:live", update);
    model.off("change:sparks", lines);
    model.off("msg:custom", table.hear);
    [kernel, below].forEach((part) => part.off());
    unwatch();
  };
}

export default { render };
