// Controls as the kernel describes them (see controls.py): made once, brought up to date with each answer.
// Behind parts.js in one module. A control that the user holds is left alone.

const SEND_GAP = 90; // ms between two messages of a slider that is being dragged
const PLAY_GAP = 650; // ms between two stops of a slider that plays

// `ask(name, value)` with at most one message in SEND_GAP, the last value always among them.
function steady(ask) {
  let timer = 0, next = null;
  const go = () => {
    timer = 0;
    if (next === null) return;
    ask(next); next = null; timer = setTimeout(go, SEND_GAP);
  };
  return (value) => { next = value; if (!timer) go(); };
}

function fill(menu, options) {
  const entry = ([value, text]) => make("option", { value: JSON.stringify(value) }, text);
  menu.replaceChildren(...options.map(entry));
}

const KINDS = {
  select(first, ask) {
    const menu = make("select", { class: "kd-select", onchange: () => ask(JSON.parse(menu.value)) });
    let shown = "";
    return {
      element: make("label", { class: "kd-choice" }, make("span", {}, first.label), menu),
      update: (now) => {
        if (JSON.stringify(now.options) !== shown) { shown = JSON.stringify(now.options); fill(menu, now.options); }
        menu.value = JSON.stringify(now.value);
        menu.disabled = !!now.disabled;
      },
    };
  },
  tick(first, ask) {
    const box = make("input", { type: "checkbox", onchange: () => ask(box.checked) });
    return {
      element: make("label", { class: "kd-choice" }, box, first.label),
      update: (now) => { box.checked = now.value; box.disabled = !!now.disabled; },
    };
  },
  button(first, ask) {
    const button = make("button", { type: "button", class: "kd-button kd-small", onclick: () => ask(true) }, first.label);
    return { element: button, update: (now) => { button.disabled = !!now.disabled; setText(button, now.label); } };
  },
  chips(first, ask) {
    const group = make("div", { class: "kd-chips", role: "group", "aria-label": first.label });
    let shown = "", chosen = [];
    const toggle = (value) => {
      const next = chosen.includes(value) ? chosen.filter((v) => v !== value) : [...chosen, value];
      if (next.length) ask(next); // nothing chosen would be an empty figure
    };
    return {
      element: make("div", { class: "kd-choice" }, make("span", {}, first.label), group),
      update: (now) => {
        if (JSON.stringify(now.options) !== shown) {
          shown = JSON.stringify(now.options);
          group.replaceChildren(...now.options.map(([value, text, look]) => {
            const chip = make("button", { type: "button", class: "kd-chip", onclick: () => toggle(value) }, ...(look ? [swatch(look)] : []), text);
            chip.chipValue = value;
            return chip;
          }));
        }
        chosen = now.value;
        for (const chip of group.children) chip.setAttribute("aria-pressed", chosen.includes(chip.chipValue));
      },
    };
  },
  stops(first, ask, idle) {
    let options = [], at = 0, timer = 0, held = false;
    const text = make("output", { class: "kd-output" });
    const show = () => { setText(text, options[at]?.[1] ?? ""); slider.setAttribute("aria-valuetext", text.textContent); };
    const send = steady((place) => ask(options[place][0]));
    const slider = make("input", {
      type: "range", min: 0, step: 1, class: "kd-stops", "aria-label": first.label,
      oninput: () => { stop(); at = Number(slider.value); show(); send(at); },
      onpointerdown: () => (held = true), onpointerup: () => (held = false), onblur: () => (held = false),
    });
    const play = make("button", { type: "button", class: "kd-button kd-small kd-run", "aria-label": `Play through ${first.label.toLowerCase()}s`, onclick: () => (timer ? stop() : start()) }, icon("play"));
    const stop = () => { clearTimeout(timer); timer = 0; play.replaceChildren(icon("play")); };
    const next = () => {
      if (idle()) { // the stop before has been drawn
        if (at >= options.length - 1) return stop();
        at += 1; slider.value = at; show(); ask(options[at][0]);
      }
      timer = setTimeout(next, PLAY_GAP);
    };
    const start = () => {
      play.replaceChildren(icon("pause"));
      if (at >= options.length - 1) { at = 0; slider.value = 0; show(); ask(options[0][0]); }
      timer = setTimeout(next, PLAY_GAP);
    };
    return {
      element: make("div", { class: "kd-choice" }, ...(first.play ? [play] : []), make("span", {}, first.label), slider, text),
      update: (now) => {
        options = now.options;
        slider.max = Math.max(options.length - 1, 0);
        slider.disabled = play.disabled = options.length < 2;
        if (!held && !timer) { at = Math.max(options.findIndex(([value]) => JSON.stringify(value) === JSON.stringify(now.value)), 0); slider.value = at; }
        show();
      },
      off: () => clearTimeout(timer),
    };
  },
  slide(first, ask) {
    const to = (value) => (first.log ? Math.log(value) : value), from = (place) => (first.log ? Math.exp(place) : place);
    let held = false;
    const text = make("output", { class: "kd-output" });
    const show = (value) => setText(text, `${Number(Number(value).toPrecision(3))}${first.unit ?? ""}`);
    const send = steady(ask);
    const slider = make("input", {
      type: "range", min: to(first.low), max: to(first.high), step: first.log ? (to(first.high) - to(first.low)) / 100 : first.step,
      class: "kd-stops", "aria-label": first.label,
      oninput: () => { const value = Number(from(Number(slider.value)).toPrecision(3)); show(value); send(value); },
      onpointerdown: () => (held = true), onpointerup: () => (held = false), onblur: () => (held = false),
    });
    return {
      element: make("label", { class: "kd-choice" }, make("span", {}, first.label), slider, text),
      update: (now) => { if (!held) { slider.value = to(now.value); show(now.value); } slider.disabled = !!now.disabled; },
    };
  },
  number(first, ask) {
    const field = make("input", { type: "number", class: "kd-weight", step: 1, onchange: () => Number.isFinite(field.valueAsNumber) && ask(Math.round(field.valueAsNumber)) });
    return {
      element: make("label", { class: "kd-choice" }, make("span", {}, first.label), field),
      update: (now) => {
        field.min = now.low; field.max = now.high; field.disabled = !!now.disabled;
        if (document.activeElement !== field) field.value = now.value;
      },
    };
  },
};

// A row of controls. `idle` tells whether the kernel has answered everything.
function controlBar(send, idle) {
  const element = make("div", { class: "kd-choices kd-bar" });
  const made = new Map();
  const update = (live) => {
    for (const control of live.controls) {
      if (!made.has(control.name)) {
        const part = KINDS[control.kind](control, (value) => send({ do: "control", name: control.name, value }), idle);
        part.element.dataset.control = control.name;
        made.set(control.name, part);
      }
      const part = made.get(control.name);
      part.element.hidden = !!control.hidden;
      part.element.title = control.title ?? "";
      part.update(control);
    }
    const order = live.controls.map((control) => made.get(control.name).element);
    if (order.some((node, place) => element.children[place] !== node) || element.children.length !== order.length) element.replaceChildren(...order);
  };
  return { element, update, off: () => made.forEach((part) => part.off?.()) };
}
