// The students of a StudyPanel: a card each, with its terms, and what can be done with it: fork, drop, add.
// Behind desk.js in one module; `make`, `svg`, `swatch`, `icon`, `setText` and `DECADES` come from there.

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

// Fields and buttons that come up under a button. The form waits for the kernel's answer: it closes when
// the thing was done and stays as it was when it was refused (the reason stands among the messages).
function popForm({ label, opener, submit, fields, message, send }) {
  const go = make("button", { type: "submit", class: "kd-button kd-go" }, submit);
  const cancel = make("button", { type: "button", class: "kd-button", onclick: () => close() }, "Cancel");
  const element = make(
    "form", {
      class: "kd-form", hidden: true, "aria-label": label,
      onsubmit: (event) => { event.preventDefault(); pending = send(message()); go.disabled = true; },
      onkeydown: (event) => {
        if (event.key === "Escape") close();
        else if (event.key === "Enter" && event.target.tagName === "INPUT") element.requestSubmit(go);
        else return;
        event.preventDefault(); // Lab has a meaning of its own for both keys, and would take them
        event.stopPropagation();
      },
    },
    ...fields, make("div", { class: "kd-form-buttons" }, go, cancel),
  );
  let pending = 0;
  const close = () => {
    const inside = element.contains(document.activeElement);
    element.hidden = true;
    opener.setAttribute("aria-expanded", "false");
    pending = 0;
    go.disabled = false;
    if (inside && !opener.disabled) opener.focus();
  };
  const open = () => {
    element.hidden = false;
    opener.setAttribute("aria-expanded", "true");
    element.querySelector("select, input, button").focus();
    element.scrollIntoView({ block: "nearest" });
  };
  opener.setAttribute("aria-expanded", "false");
  opener.addEventListener("click", () => (element.hidden ? open() : close()));
  const update = (live) => {
    const outcome = pending ? live.outcomes?.[pending] : undefined;
    if (outcome === undefined) return;
    pending = 0;
    go.disabled = false;
    if (outcome) { element.reset(); close(); }
  };
  return { element, update, close, hidden: () => element.hidden };
}

const field = (text, control) => make("label", { class: "kd-field" }, make("span", {}, text), control);
const options = (pairs) => pairs.map(([value, text]) => make("option", { value }, text));

function forkForm(student, spec, opener, send) {
  const when = make("select", { class: "kd-select" }, ...options([["now", "now"], ["then", "after epoch …"]]));
  const epoch = make("input", { type: "number", class: "kd-weight", min: 1, max: spec.epochs - 1, step: 1, value: 1, required: true, "aria-label": `Fork ${student.name} after epoch` });
  const method = make("select", { class: "kd-select" }, make("option", { value: "" }, `the same (${student.method})`), ...options(spec.methods));
  const name = make("input", { type: "text", class: "kd-select", placeholder: "made up for you", maxlength: 60 });
  const show = () => (epoch.hidden = epoch.disabled = when.value === "now");
  when.addEventListener("change", show);
  const form = popForm({
    label: `Fork ${student.name}`, opener, submit: "Fork", send,
    fields: [
      field("From", make("span", { class: "kd-when" }, when, epoch)), field("Method", method), field("Name", name),
    ],
    message: () => ({
      do: "fork", student: student.name, name: name.value.trim() || null, method: method.value || null,
      at_epoch: when.value === "then" ? epoch.valueAsNumber : null,
    }),
  });
  form.element.addEventListener("reset", () => setTimeout(show));
  show();
  const update = (live, can) => {
    const now = when.options[0];
    now.disabled = !can.fork_now;
    when.options[1].disabled = !can.fork_then;
    if (form.hidden()) { when.value = can.fork_now || !can.fork_then ? "now" : "then"; show(); }
    form.update(live);
  };
  return { ...form, update };
}

function dropForm(student, opener, send) {
  return popForm({
    label: `Drop ${student.name}`, opener, submit: "Yes, drop it", send,
    fields: [make("div", { class: "kd-question" }, `Train ${student.name} no further? What it has done is kept; this cannot be undone.`)],
    message: () => ({ do: "drop", student: student.name }),
  });
}

const small = (text, label, name) =>
  make("button", { type: "button", class: "kd-button kd-small", "aria-label": label }, ...(name ? [icon(name)] : []), make("span", {}, text));

// One student: its name and line, its method, its numbers, a cell for each term of its loss, fork and drop.
function card(student, spec, send) {
  const figures = make("div", { class: "kd-figures" });
  const standing = make("span", { class: "kd-badge kd-standing", hidden: true });
  const more = [student.differs && `differs: ${student.differs}`, student.origin].filter(Boolean).join("; ");
  const cells = Object.entries(student.terms).map(([term, fixed]) => [term, cell(student.name, term, fixed, send)]);
  const fork = small("Fork", `Fork ${student.name}`, "fork");
  const drop = small("Drop", `Drop ${student.name}`);
  fork.title = "Let a new student go its own way from here, or from after an earlier epoch";
  drop.title = "Train this student no further";
  const forking = forkForm(student, spec, fork, send);
  const dropping = dropForm(student, drop, send);
  fork.addEventListener("click", () => dropping.close());
  drop.addEventListener("click", () => forking.close());
  const element = make(
    "section", { class: "kd-card", "aria-label": `Student ${student.name}`, "data-name": student.name },
    make("div", { class: "kd-student" }, swatch(student.look), make("span", { class: "kd-name" }, student.name)),
    standing,
    make(
      "div", { class: "kd-method" },
      make("span", { title: student.paper }, student.method),
      make("span", { class: `kd-badge kd-${student.status}`, title: student.status_hint }, student.status_text),
    ),
    ...(more ? [make("div", { class: "kd-origin" }, more)] : []),
    figures,
    ...cells.map(([, part]) => part.element),
    make("div", { class: "kd-actions" }, fork, drop),
    forking.element, dropping.element,
  );
  const update = (live) => {
    const can = live.students[student.name];
    if (!can) return; // its values come with the next message
    setText(figures, live.numbers[student.name]);
    setText(standing, can.badge);
    standing.hidden = !can.badge;
    standing.title = can.why;
    standing.dataset.kind = can.kind;
    element.classList.toggle("kd-ended", can.kind === "dropped" || can.kind === "failed");
    cells.forEach(([term, part]) => part.update(live.cells[student.name][term], can.editable));
    fork.disabled = !can.fork_now && !can.fork_then;
    drop.disabled = !can.drop;
    forking.update(live, can);
    dropping.update(live);
    if (drop.disabled && !dropping.hidden()) dropping.close();
  };
  return { element, update };
}

// The last card: a new student.
function newStudent(spec, send) {
  const opener = small("Add a student", "Add a student", "add");
  opener.title = "A new student begins with the weights all began with and catches up";
  const name = make("input", { type: "text", class: "kd-select", required: true, maxlength: 60, "aria-label": "Name of the new student" });
  const method = make("select", { class: "kd-select", "aria-label": "Method of the new student" }, ...options(spec.methods));
  const form = popForm({
    label: "Add a student", opener, submit: "Add", send, fields: [field("Method", method), field("Name", name)],
    message: () => ({ do: "add", name: name.value.trim(), method: method.value }),
  });
  const element = make("section", { class: "kd-card kd-new", "aria-label": "New student" }, opener, form.element);
  return { element, update: form.update };
}

function desk(spec, send) {
  const cards = new Map();
  const last = newStudent(spec, send);
  const element = make(
    "div", { class: "kd-desk", role: "group", "aria-label": "Switch and weight of every loss term of every student" },
    last.element,
  );
  const extend = (now) => {
    for (const student of now.students) {
      if (cards.has(student.name)) continue; // what the user is doing in a card goes on
      const one = card(student, now, send);
      cards.set(student.name, one);
      last.element.before(one.element);
    }
  };
  extend(spec);
  return { element, extend, update: (live) => { cards.forEach((one) => one.update(live)); last.update(live); } };
}
