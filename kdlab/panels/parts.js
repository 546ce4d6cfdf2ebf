// Small parts that all panels are made of. Other files stand behind this one in one module.

// Lab takes arrow keys and the space bar for its own shortcuts, unless the focused element itself says no.
const KEYS_ARE_MINE = new Set(["button", "input", "select"]);
const PATIENCE = 2500; // ms without an answer before the page says that the kernel is busy

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

const ICONS = {
  play: "M3 1.5v13l11-6.5z",
  pause: "M3 2h3.5v12H3zM9.5 2H13v12H9.5z",
  step: "M3 2v12l7-6zM11 2h2.5v12H11z",
  stop: "M2.5 2.5h11v11h-11z",
  fork: "M4 1.5v13M4 8.5c0-3 7-1.500 7-6M8.500 4.500l2.500-3 2.500 3",
  add: "M8 2.500v11M2.500 8h11",
};

const icon = (name) =>
  svg("svg", { viewBox: "0 0 16 16", class: "kd-icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A piece of a network's line as the plots draw it: colour, dashes and marker.
function swatch(look) {
  return svg(
    "svg",
    { viewBox: "0 0 34 12", class: "kd-swatch", "aria-hidden": "true", style: `--kd-light:${look.color};--kd-dark:${look.dark}` },
    svg("line", { x1: 1, y1: 6, x2: 33, y2: 6, "stroke-dasharray": look.dasharray }),
    svg("path", { d: look.marker }),
  );
}

// The Python of what was done last, to be copied.
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

// Messages to the kernel, numbered, and a line that comes up while it does not answer.
function questions(model) {
  let asked = model.get("live").answered;
  let timer = 0;
  const element = make("div", { class: "kd-busy", role: "status", hidden: true },
    "The kernel is busy with a cell and has not answered yet. It will do this as soon as it is free.");
  const send = (message) => {
    asked = Math.max(asked, model.get("live").answered) + 1;
    model.send({ ...message, id: asked });
    clearTimeout(timer);
    timer = setTimeout(() => (element.hidden = model.get("live").answered >= asked), PATIENCE);
    return asked;
  };
  return { element, send, idle: () => model.get("live").answered >= asked, update: (live) => { if (live.answered >= asked) element.hidden = true; }, off: () => clearTimeout(timer) };
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

// Echo the kernel's beat after an animation frame: what was sent before it has been drawn.
function keepPace(model) {
  const echo = () => requestAnimationFrame(() => {
    model.set("seen", model.get("sent"));
    model.save_changes();
  });
  model.on("change:sent", echo);
  return () => model.off("change:sent", echo);
}
