// A LiveFigure: one plot. Behind plot.js in one module.

function render({ model, el }) {
  const area = plotArea(model);
  const update = () => area.update(model.get("spec"));
  model.on("change:spec", update);
  el.append(area.element);
  update();
  return () => { model.off("change:spec", update); area.off(); };
}

export default { render };
