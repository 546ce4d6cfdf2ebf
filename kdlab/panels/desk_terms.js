// One term of one student on the mixing desk, and the editor of its schedule.
// Behind parts.js, desk.js and desk_forms.js in one module.

const DECADES = 2; // the slider reaches from default / 100 to default * 100
const THINK = 150; // ms without a key until the kernel is asked how a schedule would run
const SPARK = { width: 40, height: 20 };
const SHAPES = { // what a schedule looks like, on its button
  constant: "M2 8h12", warmup: "M2 13L9 4h5", cosine: "M2 3c6 0 6 10 12 10", piecewise: "M2 4h4v4h4v5h4",
};

// A line through heights; null leaves a gap.
function linePath(heights) {
  const apart = SPARK.width / Math.max(heights.length - 1, 1);
  const point = (height, i) => `${(i * apart).toFixed(1)} ${SPARK.height - height}`;
  const on = (i) => heights[i] !== null && heights[i] !== undefined;
  return heights
    .map((height, i) => (!on(i) ? "" : on(i - 1) ? `L${point(height, i)}` : `M${point(height, i)}${on(i + 1) ? "" : "h.1"}`))
    .join("");
}

function sparkline() {
  const path = svg("path", { d: "" });
  const element = svg(
    "svg", { viewBox: `0 -1 ${SPARK.width} ${SPARK.height + 2}`, preserveAspectRatio: "none", class: "kd-spark", "aria-hidden": "true" },
    svg("title", {}, "Value before the weight, over the latest steps"), path,
  );
  return { element, draw: (heights) => path.setAttribute("d", linePath(heights ?? [])) };
}

// Factors by epoch as stairs, with a mark at the present epoch, and the same in words.
function scheduleView() {
  const wide = 240, high = 44;
  const stairs = svg("path", { class: "kd-stairs" });
  const now = svg("line", { class: "kd-now", y1: 0, y2: high });
  const picture = svg("svg", { viewBox: `-1 -3 ${wide + 2} ${high + 6}`, class: "kd-preview", "aria-hidden": "true" }, now, stairs);
  const said = make("span", { class: "kd-preview-text", role: "status" });
  const element = make("div", { class: "kd-field" }, make("span", {}, "Weight over the epochs"), picture, said);
  const brief = (factor) => Number(factor.toPrecision(3));
  const draw = ({ factors, now: epoch, error }) => {
    setText(said, error || `× ${brief(factors[epoch - 1])} now (epoch ${epoch} of ${factors.length}), × ${brief(factors.at(-1))} in the last`);
    said.classList.toggle("kd-wrong", Boolean(error));
    picture.style.visibility = error ? "hidden" : "visible";
    if (error) return;
    const top = Math.max(1, ...factors), bottom = Math.min(0, ...factors), step = wide / factors.length;
    const y = (factor) => (high * (top - factor) / (top - bottom)).toFixed(1);
    stairs.setAttribute("d", `M0 ${y(factors[0])}` + factors.map((factor, i) => `V${y(factor)}H${((i + 1) * step).toFixed(1)}`).join(""));
    for (const end of ["x1", "x2"]) now.setAttribute(end, (epoch - 0.5) * step);
  };
  return { element, draw };
}

// The form under a term's schedule button. The kernel says how what is typed would run, or why it cannot.
function scheduleForm(student, term, kinds, opener, present, send) {
  const kind = make("select", { class: "kd-select", "aria-label": "Kind of schedule" }, ...options(kinds.map((one) => [one.kind, one.text])));
  const numbers = make("input", { type: "text", class: "kd-select", autocomplete: "off", spellcheck: "false" });
  const label = make("span", {});
  const asked = make("label", { class: "kd-field" }, label, numbers);
  const view = scheduleView();
  const text = () => {
    const rest = numbers.value.replace(/\s/g, "");
    return asked.hidden || !rest ? kind.value : `${kind.value}:${rest}`;
  };
  let timer = 0;
  const look = () => send({ do: "preview", student: student.name, term, schedule: text() });
  const turn = (given) => {
    const one = kinds.find((known) => known.kind === kind.value);
    asked.hidden = !one.field;
    setText(label, one.field);
    numbers.value = given ?? one.begin;
    look();
  };
  kind.addEventListener("change", () => turn());
  numbers.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, THINK); });
  const form = popForm({
    label: `Schedule of ${term} of ${student.name}`, opener, submit: "Set", send,
    fields: [make("label", { class: "kd-field" }, make("span", {}, `Schedule of ${term}`), kind), asked, view.element],
    message: () => ({ do: "set", student: student.name, term, schedule: text() }),
    opened: () => {
      const [shape, rest] = present().split(/:(.*)/s);
      kind.value = shape;
      turn(rest ?? "");
    },
  });
  const hear = (message) => {
    if (message.do !== "preview" || message.student !== student.name || message.term !== term || message.schedule !== text()) return;
    view.draw(message);
    form.go.disabled = Boolean(message.error);
  };
  return { ...form, hear };
}

// Switch, solo, schedule; slider and weight; sparkline, value, and the share of the loss.
function cell(student, term, fixed, spec, send) {
  const who = `${term} of ${student.name}`;
  const base = Math.abs(fixed.weight) || 1;
  const set = (change) => send({ do: "set", student: student.name, term, ...change });
  const toSlider = (weight) => (weight ? Math.log10(Math.abs(weight) / base) : -DECADES);
  const toWeight = (position) => Number(((fixed.weight < 0 ? -1 : 1) * base * 10 ** position).toPrecision(3));

  const onoff = make("input", {
    type: "checkbox", role: "switch", class: "kd-switch", "aria-label": `${who}: on or off`,
    onchange: () => { mark(); set({ enabled: onoff.checked }); },
  });
  const solo = make("button", {
    type: "button", class: "kd-mini kd-solo", "aria-pressed": "false", "aria-label": `${who}: solo`,
    title: "Solo: this term alone; once more for what was on before",
    onclick: () => send({ do: "solo", student: student.name, term }),
  }, "S");
  const shape = svg("path", { d: SHAPES.constant });
  const schedule = make(
    "button", { type: "button", class: "kd-mini kd-schedule", "aria-label": `${who}: schedule` },
    svg("svg", { viewBox: "0 0 16 16", class: "kd-icon", "aria-hidden": "true" }, shape),
  );
  const weight = make("input", {
    type: "number", step: "any", class: "kd-weight", "aria-label": `${who}: weight`, title: `Weight; ${fixed.weight} by default`,
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
    ondblclick: () => { slider.value = 0; weight.value = fixed.weight; set({ weight: fixed.weight }); },
  });
  const name = make("label", { class: "kd-term", title: fixed.doc }, onoff, make("span", { class: "kd-term-name" }, term));
  const spark = sparkline();
  const value = make("span", { class: "kd-value", title: "Value now × weight with its schedule = part of the loss" });
  const share = make("div", { class: "kd-share" });
  const changed = { enabled: name, weight: make("span", { class: "kd-weight-box" }, weight), schedule };
  const element = make(
    "div", { class: "kd-cell", role: "group", "aria-label": who, "data-student": student.name, "data-term": term },
    make("div", { class: "kd-row" }, name, make("span", { class: "kd-minis" }, solo, schedule)),
    make("div", { class: "kd-row" }, slider, changed.weight),
    make("div", { class: "kd-row kd-reading" }, spark.element, value),
    make("div", { class: "kd-track", title: "Share of the weighted loss", "aria-hidden": "true" }, share),
  );
  let shown = { schedule: "constant" };
  const form = scheduleForm(student, term, spec.schedules, schedule, () => shown.schedule, send);
  const mark = () => element.classList.toggle("kd-off", !onoff.checked);
  const update = (now, editable, live) => {
    for (const control of [onoff, weight, slider, schedule]) control.disabled = !editable;
    solo.disabled = !editable || Object.keys(student.terms).length < 2;
    solo.setAttribute("aria-pressed", String(now.solo));
    onoff.checked = now.enabled;
    const typing = document.activeElement === weight || document.activeElement === slider;
    if (!typing || shown.weight !== now.weight) { // do not write into what the user is changing
      weight.value = Number(now.weight.toPrecision(6));
      slider.value = toSlider(now.weight);
    }
    setText(value, now.value);
    share.style.width = `${Math.round(100 * now.share)}%`;
    shape.setAttribute("d", SHAPES[now.schedule.split(":")[0]] ?? SHAPES.piecewise);
    schedule.title = `Schedule of the weight: ${now.schedule} (default ${fixed.schedule}); click to change it`;
    schedule.classList.toggle("kd-scheduled", now.schedule !== "constant");
    for (const [field, part] of Object.entries(changed)) part.classList.toggle("kd-changed", now.differs.includes(field));
    mark();
    shown = now;
    form.update(live);
    if (!editable && !form.hidden()) form.close();
  };
  return { element, form, update, draw: spark.draw };
}
