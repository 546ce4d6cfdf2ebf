// Forms of the mixing desk that come up on demand, and the dialog with a method's card.
// Behind parts.js and desk.js in one module.

// Fields and buttons that come up under a button. The form waits for the kernel's answer: it closes when
// the thing was done and stays as it was when it was refused (the reason stands among the messages).
function popForm({ label, opener, submit, fields, message, send, opened }) {
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
    opened?.();
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
  return { element, update, close, go, hidden: () => element.hidden };
}

const field = (text, control) => make("label", { class: "kd-field" }, make("span", {}, text), control);
const options = (pairs) => pairs.map(([value, text]) => make("option", { value }, text));

const small = (text, label, name) =>
  make("button", { type: "button", class: "kd-button kd-small", "aria-label": label }, ...(name ? [icon(name)] : []), make("span", {}, text));

// A method's card: one dialog for all students. It comes up at once and is filled when the kernel answers.
function methodCard(send) {
  const title = make("strong", {});
  const body = make("div", { class: "kd-card-body", tabindex: 0 });
  const close = make("button", { type: "button", class: "kd-button", onclick: () => element.close() }, "Close");
  const element = make(
    "dialog", {
      class: "kd-dialog", "aria-label": "Method card", "data-lm-suppress-shortcuts": "true",
      onkeydown: (event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        element.close();
      },
      onclick: (event) => { if (event.target === element) element.close(); }, // beside the card
    },
    make("div", { class: "kd-card-head" }, title, close), body,
  );
  let shown = null;
  const open = (student) => {
    shown = student.name;
    setText(title, `${student.name}: ${student.method}`);
    body.replaceChildren("…");
    element.showModal();
    send({ do: "card", student: student.name });
  };
  const hear = (message) => {
    if (message.do !== "card" || message.student !== shown) return;
    const drawn = make("div", { class: "kd-diagrams" });
    drawn.innerHTML = message.diagrams.join(""); // made by kdlab.methods.diagram, which escapes all names
    body.replaceChildren(drawn, make("pre", {}, message.text));
    body.scrollTop = 0;
  };
  return { element, open, hear };
}
