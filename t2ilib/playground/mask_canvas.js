// A picture, a canvas over it, and four controls. Strokes go to Python when one ends; see mask_canvas.py.

const SIDE = 512; // pixels of the canvas' longer side
const COLOUR = "rgb(232, 62, 140)"; // the canvas as a whole is half transparent

function element(kind, className, parent) {
  const made = document.createElement(kind);
  made.className = className;
  parent.append(made);
  return made;
}

function button(name, title, parent, action) {
  const made = element("button", "t2i-canvas-button jupyter-button widget-button", parent);
  made.type = "button";
  made.textContent = name;
  made.title = title;
  made.addEventListener("click", action);
  return made;
}

function render({ model, el }) {
  let strokes = [...model.get("strokes")];
  let stroke = null; // the one that is being drawn
  let erase = false;
  let address = "";

  const root = element("div", "t2i-canvas", el);
  const stage = element("div", "t2i-canvas-stage", root);
  const image = element("img", "t2i-canvas-picture", stage);
  image.alt = "the picture to be edited";
  image.draggable = false;
  const canvas = element("canvas", "t2i-canvas-mask", stage);
  const pen = canvas.getContext("2d");
  const tools = element("div", "t2i-canvas-tools", root);
  const label = element("label", "", tools);
  label.textContent = "brush ";
  const brush = element("input", "t2i-canvas-brush", label);
  Object.assign(brush, { type: "range", min: 2, max: 30, value: 9, title: "radius of the brush" });
  const eraser = button("erase", "take away from the mask", tools, () => {
    erase = !erase;
    eraser.setAttribute("aria-pressed", String(erase));
  });
  eraser.setAttribute("aria-pressed", "false");
  button("undo", "take the last stroke back", tools, () => send(strokes.slice(0, -1)));
  button("clear", "take all strokes away", tools, () => send([]));

  function send(changed) {
    strokes = changed;
    model.set("strokes", strokes);
    model.save_changes();
    redraw();
  }

  function paint({ radius, erase, points }) {
    const shorter = Math.min(canvas.width, canvas.height);
    pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
    pen.lineWidth = 2 * radius * shorter;
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = COLOUR;
    pen.beginPath();
    points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x * canvas.width, y * canvas.height));
    if (points.length === 1) pen.lineTo(points[0][0] * canvas.width + 0.01, points[0][1] * canvas.height);
    pen.stroke();
  }

  function redraw() {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    strokes.forEach(paint);
    if (stroke) paint(stroke);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const share = (value, length) => Math.min(1, Math.max(0, value / length));
    return [share(event.clientX - box.left, box.width), share(event.clientY - box.top, box.height)];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    stroke = { radius: brush.value / 100, erase, points: [place(event)] };
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    stroke.points.push(place(event));
    redraw();
  });
  function end() {
    if (!stroke) return;
    const ended = stroke;
    stroke = null;
    send([...strokes, ended]);
  }
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);

  function showPicture() {
    URL.revokeObjectURL(address);
    const bytes = model.get("picture");
    const present = bytes && bytes.byteLength > 0;
    root.style.display = present ? "" : "none";
    if (!present) return;
    address = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    image.src = address;
    const [width, height] = [model.get("width"), model.get("height")];
    const scale = SIDE / Math.max(width, height);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    stage.style.aspectRatio = `${width} / ${height}`;
    redraw();
  }

  function showStrokes() {
    strokes = [...model.get("strokes")];
    redraw();
  }

  model.on("change:picture", showPicture);
  model.on("change:strokes", showStrokes);
  showPicture();
  return () => {
    model.off("change:picture", showPicture);
    model.off("change:strokes", showStrokes);
    URL.revokeObjectURL(address);
  };
}

export default { render };
