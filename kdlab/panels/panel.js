// A panel: heading, controls, one plot, what one sees, small pictures, the same in Python, files to save.
// Behind parts.js, plot.js and controls.js in one module.

const SAVES = [["png", "PNG"], ["svg", "SVG"], ["html", "HTML"], ["csv", "CSV"], ["npz", "NPZ"]];
const SAVE_TITLES = {
  png: "Save the figure as a picture", svg: "Save the figure as a drawing", html: "Save the figure as a web page that needs nothing else",
  csv: "Save the numbers behind the figure as a table", npz: "Save the whole result (kdlab.probes.load_result)",
};

function download(name, content) {
  const url = URL.createObjectURL(content);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// Hints, and how far a measurement is.
function working(send) {
  const hint = make("span", { class: "kd-hint" });
  const bar = make("progress", { class: "kd-progress", max: 1, "aria-label": "Progress of the measurement" });
  const text = make("span", { class: "kd-progress-text" });
  const cancel = make("button", { type: "button", class: "kd-button kd-small", onclick: () => send({ do: "cancel" }) }, "Cancel");
  const again = make("button", { type: "button", class: "kd-button kd-small", onclick: () => send({ do: "retry" }) }, "Try again");
  const element = make("div", { class: "kd-working", role: "status" }, hint, bar, text, cancel, again);
  const update = ({ hint: said, work }) => {
    const under_way = work.length > 0 && work[1] !== null;
    setText(hint, said);
    hint.hidden = !said;
    bar.hidden = text.hidden = cancel.hidden = !under_way;
    again.hidden = !(work.length > 0 && work[1] === null);
    element.hidden = !said && !work.length;
    if (!under_way) return;
    if (work[1] > 0) bar.value = work[1];
    else bar.removeAttribute("value");
    setText(text, work[0]);
  };
  return { element, update };
}

function pictures(send) {
  const element = make("div", { class: "kd-pictures", role: "list", "aria-label": "Pictures" });
  let shown = "";
  const update = (live) => {
    const now = JSON.stringify(live.pictures);
    if (now === shown) return;
    shown = now;
    const nodes = [];
    let row = null; // pictures of one row stand behind its name
    for (const one of live.pictures) {
      if (one.row && one.row !== row) nodes.push(make("span", { class: "kd-picture-row" }, one.row));
      row = one.row;
      nodes.push(make("button", {
        type: "button", class: "kd-picture", role: "listitem", title: one.title ?? one.text, "data-id": one.id,
        "aria-pressed": String(!!one.chosen), onclick: () => send({ do: "picture", place: one.id }),
      }, make("img", { src: one.src, alt: "" }), make("span", {}, one.text)));
    }
    element.classList.toggle("kd-rows", row !== null && row !== undefined);
    element.replaceChildren(...nodes);
  };
  return { element, update };
}

function saving(model, area, send, name) {
  const save = async (kind) => {
    if (kind !== "png" && kind !== "svg") return send({ do: "export", format: kind });
    const url = await area.picture(kind);
    if (url) download(`${name}.${kind}`, await (await fetch(url)).blob());
  };
  const buttons = SAVES.map(([kind, label]) =>
    make("button", { type: "button", class: "kd-button kd-small", title: SAVE_TITLES[kind], "data-save": kind, onclick: () => save(kind) }, label));
  return make("div", { class: "kd-saving", role: "group", "aria-label": "Save" }, make("span", {}, "Save"), ...buttons);
}

function render({ model, el }) {
  const { heading, purpose } = model.get("spec");
  const kernel = questions(model);
  const area = plotArea(model, "kd-plot");
  const bar = controlBar(kernel.send, () => kernel.idle() && !model.get("live").work.length);
  const said = make("p", { class: "kd-said", "aria-live": "polite" });
  const parts = [bar, working(kernel.send), pictures(kernel.send), lastAction(), errors(kernel.send), kernel];
  const [, work, strip, code, wrong] = parts;
  const foot = make("div", { class: "kd-foot" }, code.element, saving(model, area, kernel.send, heading.toLowerCase()));
  const root = make("div", { class: "kd-panel kd-analysis", role: "region", "aria-label": heading },
    make("div", { class: "kd-title" }, make("strong", {}, heading), make("span", {}, purpose)),
    bar.element, work.element, area.element, said, strip.element, foot, wrong.element, kernel.element);
  const update = () => {
    const live = model.get("live");
    parts.forEach((part) => part.update(live));
    setText(said, live.said);
    const stale = live.work.length > 0 || !!live.hint;
    area.element.classList.toggle("kd-stale", stale);
    foot.hidden = !live.said;
  };
  const draw = () => area.update(model.get("figure"));
  let pieces = [];
  const hear = async (message, buffers) => {
    if (message?.do !== "file") return;
    pieces = [...pieces.slice(0, message.place), buffers[0]];
    if (pieces.length < message.pieces) return;
    const whole = await unpack(new Blob(pieces));
    download(message.name, new Blob([whole], { type: message.mime }));
  };
  model.on("change:live", update);
  model.on("change:figure", draw);
  model.on("msg:custom", hear);
  el.append(root);
  update();
  draw();
  const leave = [watchTheme(model), keepPace(model)];
  return () => {
    model.off("change:live", update);
    model.off("change:figure", draw);
    model.off("msg:custom", hear);
    [area, kernel, bar].forEach((part) => part.off());
    leave.forEach((off) => off());
  };
}

export default { render };
