// The students of a StudyPanel: a card each, with its terms, and what can be done with it: fork, drop, add.
// Behind parts.js, desk.js and desk_terms.js in one module.

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

// One student: who it is and how it stands, a cell for each term of its loss, and what can be done with it.
function card(student, spec, send, about) {
  const figures = make("div", { class: "kd-figures" });
  const standing = make("span", { class: "kd-badge kd-standing", hidden: true });
  const more = [student.differs && `differs: ${student.differs}`, student.origin].filter(Boolean).join("; ");
  const cells = Object.entries(student.terms).map(([term, fixed]) => [term, cell(student, term, fixed, spec, send)]);
  const method = make(
    "button", {
      type: "button", class: "kd-about", "aria-label": `Method card of ${student.name}`, "aria-haspopup": "dialog",
      title: `${student.paper}. Click for the method's card.`, onclick: () => about.open(student),
    }, student.method,
  );
  const fork = small("Fork", `Fork ${student.name}`, "fork");
  const drop = small("Drop", `Drop ${student.name}`);
  const reset = small("Reset", `Reset ${student.name}`);
  fork.title = "Let a new student go its own way from here, or from after an earlier epoch";
  drop.title = "Train this student no further";
  reset.title = "Weights, switches and schedules back to the method's defaults; what differs has a dot";
  reset.addEventListener("click", () => send({ do: "reset", student: student.name }));
  const forking = forkForm(student, spec, fork, send);
  const dropping = dropForm(student, drop, send);
  const forms = [[fork, forking], [drop, dropping], ...cells.map(([term, part]) => [part.element.querySelector(".kd-schedule"), part.form])];
  for (const [opener, mine] of forms) { // one at a time
    opener.addEventListener("click", () => forms.forEach(([, form]) => { if (form !== mine && !form.hidden()) form.close(); }));
  }
  const folded = Object.keys(student.terms).filter((term) => !student.terms[term].weight); // only offered by the method
  const unfold = new Map(folded.map((term) => [term, make("button", {
    type: "button", class: "kd-button kd-small kd-more", "aria-label": `Show ${term} of ${student.name}`,
    title: `${student.terms[term].doc} Not part of the method unless it is given a weight; click to show it`,
    onclick: () => { folded.splice(folded.indexOf(term), 1); fold(); },
  }, `+ ${term}`)]));
  const element = make(
    "section", { class: "kd-card", "aria-label": `Student ${student.name}`, "data-name": student.name },
    make(
      "div", { class: "kd-head" },
      make("div", { class: "kd-student" }, swatch(student.look), make("span", { class: "kd-name" }, student.name)),
      make("div", { class: "kd-method" }, method, make("span", { class: `kd-badge kd-${student.status}`, title: student.status_hint }, student.status_text)),
      standing,
      ...(more ? [make("div", { class: "kd-origin" }, more)] : []),
      figures,
      make("div", { class: "kd-actions" }, fork, drop, reset, ...unfold.values()),
    ),
    make("div", { class: "kd-cells" }, ...cells.map(([, part]) => part.element)),
    ...forms.map(([, form]) => form.element),
  );
  const fold = () => {
    const hidden = folded.filter((term) => weights[term] === 0);
    cells.forEach(([term, part]) => (part.element.hidden = hidden.includes(term)));
    unfold.forEach((button, term) => (button.hidden = !hidden.includes(term)));
    element.style.setProperty("--kd-terms", Math.max(cells.length - hidden.length, 1));
  };
  let weights = {};
  const update = (live) => {
    const can = live.students[student.name];
    if (!can) return; // its values come with the next message
    const values = live.cells[student.name];
    setText(figures, live.numbers[student.name]);
    setText(standing, can.badge);
    standing.hidden = !can.badge;
    standing.title = can.why;
    standing.dataset.kind = can.kind;
    element.classList.toggle("kd-ended", can.kind === "dropped" || can.kind === "failed");
    cells.forEach(([term, part]) => part.update(values[term], can.editable, live));
    fork.disabled = !can.fork_now && !can.fork_then;
    drop.disabled = !can.drop;
    weights = Object.fromEntries(Object.entries(values).map(([term, now]) => [term, now.weight]));
    fold();
    reset.disabled = !can.editable || !Object.values(values).some((now) => now.differs.length);
    forking.update(live, can);
    dropping.update(live);
    if (drop.disabled && !dropping.hidden()) dropping.close();
  };
  const draw = (lines) => cells.forEach(([term, part]) => part.draw(lines?.[term]));
  const hear = (message) => cells.forEach(([, part]) => part.form.hear(message));
  return { element, update, draw, hear };
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
  const about = methodCard(send);
  const element = make(
    "div", { class: "kd-desk", role: "group", "aria-label": "Switch, weight and schedule of every loss term of every student" },
    last.element, about.element,
  );
  const extend = (now) => {
    for (const student of now.students) {
      if (cards.has(student.name)) continue; // what the user is doing in a card goes on
      const one = card(student, now, send, about);
      cards.set(student.name, one);
      last.element.before(one.element);
    }
  };
  extend(spec);
  return {
    element, extend,
    update: (live) => { cards.forEach((one) => one.update(live)); last.update(live); },
    draw: (lines) => cards.forEach((one, name) => one.draw(lines[name])),
    hear: (message) => { about.hear(message); cards.forEach((one) => one.hear(message)); },
  };
}
