const PAGE_SIZE = 100;
const { classes, confusion, per_class, history, rows, sizes, files, seconds, warps, outlines } =
  JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = $("drawing").content.firstElementChild.namespaceURI;
// A prediction has neither labels nor a matrix: what is not on the page filters nothing.
const nothing = { value: "", checked: false };
const controls = {
  label: $("label") ?? nothing, predicted: $("predicted"), wrong: $("wrong-only") ?? nothing, order: $("order"),
};
let selection = [], page = 0;

function select() {
  const { label, predicted, wrong, order } = controls;
  selection = [...rows.keys()].filter((i) =>
    (label.value === "" || rows[i][0] === +label.value) &&
    (predicted.value === "" || rows[i][1] === +predicted.value) &&
    (!wrong.checked || rows[i][0] !== rows[i][1]));
  if (order.value !== "index") {
    const sign = order.value === "least" ? 1 : -1;
    selection.sort((a, b) => sign * (rows[a][2] - rows[b][2]) || a - b);
  }
  for (const button of document.querySelectorAll("#confusion button, #worst button")) {
    button.setAttribute("aria-pressed",
      button.dataset.label === String(label.value) && button.dataset.predicted === String(predicted.value));
  }
  show(0);
}

function show(number) {
  const pages = Math.max(1, Math.ceil(selection.length / PAGE_SIZE));
  page = Math.min(Math.max(number, 0), pages - 1);
  $("rows").replaceChildren(...selection.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map(row));
  $("count").textContent = `${selection.length} image${selection.length === 1 ? "" : "s"}`;
  $("page").textContent = page + 1;
  $("pages").textContent = pages;
  $("previous").disabled = page === 0;
  $("next").disabled = page === pages - 1;
  const top = $("rows").offsetTop - 70;
  if (scrollY > top) scrollTo({ top });
}

function row(index) {
  const [label, predicted, confidence] = rows[index];
  const item = $("row").content.firstElementChild.cloneNode(true);
  const number = String(index).padStart(5, "0");
  const name = files ? files[index] : `#${index}`;
  for (const kind of ["input", "output"]) {
    const image = item.querySelector("." + kind);
    image.src = `images/${number}-${kind}.png`;
    image.alt = `${kind} ${name}: ${classes[label ?? predicted]}`;
    const [height, width] = sizes[kind];
    image.classList.toggle("pixels", height < 100);
    image.style.setProperty("--aspect", `${width} / ${height}`);
  }
  const wrong = label !== null && label !== predicted;
  item.classList.toggle("wrong", wrong);
  item.querySelector("b").textContent = wrong
    ? `${classes[label]}, taken for ${classes[predicted]}` : classes[predicted];
  const tag = item.querySelector(".number");
  tag.textContent = `\u200e${name}\u200e`; // read from left to right, though it is cut at the left
  tag.title = name;
  const second = seconds && seconds[index] !== predicted ? `, else ${classes[seconds[index]]}` : "";
  item.querySelector(".confidence").textContent = `${(100 * confidence).toFixed(2)} % ${MEASURE}${second}`;
  item.querySelector(".warp").textContent = warps ? warps[index] : "";
  item.querySelector("i").style.width = `${100 * confidence}%`;
  if (outlines) item.querySelector(".picture").append(outline(outlines[index]));
  return item;
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function outline(polygons) {
  const [height, width] = sizes.input;
  const drawing = element("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": true });
  for (const points of polygons) {
    if (points.length) drawing.append(element("polygon", { points: points.map((p) => p.join(",")).join(" ") }));
  }
  return drawing;
}

function filterBy(button, label, predicted) {
  button.addEventListener("click", () => {
    const again = button.getAttribute("aria-pressed") === "true";
    controls.label.value = again ? "" : label;
    controls.predicted.value = again ? "" : predicted;
    controls.wrong.checked = false;
    select();
  });
}

function heading(line, text, scope) {
  const th = line.appendChild(document.createElement("th"));
  Object.assign(th, { textContent: text, title: text, scope });
}

function drawConfusion() {
  const table = $("confusion"), head = table.createTHead().insertRow();
  heading(head, "", "col");
  classes.forEach((name) => heading(head, name, "col"));
  const body = table.createTBody();
  confusion.forEach((counts, label) => {
    const line = body.insertRow(), total = Math.max(1, counts.reduce((a, b) => a + b));
    heading(line, classes[label], "row");
    counts.forEach((count, predicted) => {
      const button = line.insertCell().appendChild(document.createElement("button"));
      // Mistakes are rare: their shade grows with the root of their share, so that few are seen too.
      const share = label === predicted ? count / total : Math.sqrt(count / total);
      const colour = label === predicted ? "--right" : "--wrong";
      if (count) button.style.background =
        `rgba(var(${colour}), calc(var(--strength) * ${Math.max(share, .15).toFixed(3)}))`;
      button.type = "button";
      button.textContent = count;
      button.tabIndex = label || predicted ? -1 : 0;
      Object.assign(button.dataset, { label, predicted, count });
      button.setAttribute("aria-label", `${count} of label ${classes[label]} predicted as ${classes[predicted]}`);
      filterBy(button, label, predicted);
    });
  });
  // One stop of the tab key; the arrows go from cell to cell.
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  table.addEventListener("keydown", (event) => {
    const { label, predicted } = event.target.dataset, step = steps[event.key];
    if (!step || label === undefined) return;
    const next = body.rows[+label + step[0]]?.cells[+predicted + step[1] + 1]?.querySelector("button");
    event.preventDefault();
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

function drawWorst() {
  const worst = [];
  confusion.forEach((counts, label) => {
    const total = counts.reduce((a, b) => a + b);
    counts.forEach((count, predicted) => {
      if (count && label !== predicted) worst.push({ label, predicted, count, share: count / total });
    });
  });
  worst.sort((a, b) => b.count - a.count || b.share - a.share);
  $("worst-panel").hidden = !worst.length;
  for (const { label, predicted, count, share } of worst.slice(0, 8)) {
    const button = $("worst").appendChild(document.createElement("li")).appendChild(document.createElement("button"));
    const text = `${classes[label]} taken for ${classes[predicted]}: ${count} (${(100 * share).toFixed(1)} %)`;
    Object.assign(button, { type: "button", textContent: text, title: text });
    Object.assign(button.dataset, { label, predicted });
    filterBy(button, label, predicted);
  }
}

function drawClasses() {
  const table = $("per-class"), head = table.createTHead().insertRow(), body = table.createTBody();
  for (const name of ["class", "images", "right", "95 % interval"]) heading(head, name, "col");
  const percent = (share) => (100 * share).toFixed(1);
  for (const { class: name, images, accuracy, interval } of per_class) {
    const line = body.insertRow();
    heading(line, name, "row");
    const cells = images
      ? [images, `${percent(accuracy)} %`, `${percent(interval[0])} to ${percent(interval[1])}`] : [0, "-", "-"];
    for (const cell of cells) line.insertCell().textContent = cell;
  }
}

function drawCharts() {
  for (const [name, scale] of [["loss", 1], ["accuracy", 100]]) {
    const curves = Object.fromEntries(["train", "validation"].map((part) =>
      [part, history.map((entry) => scale * entry[part][name])]));
    const values = Object.values(curves).flat(), most = Math.max(...values), least = Math.min(...values);
    const x = (i) => 40 + 250 * (history.length > 1 ? i / (history.length - 1) : .5);
    const y = (value) => 10 + 110 * (most > least ? (most - value) / (most - least) : .5);
    const last = (part) => curves[part].at(-1).toFixed(scale > 1 ? 2 : 4);
    const title = `${name}${scale > 1 ? ", %" : ""}: train ${last("train")}, validation ${last("validation")} at the end`;
    const figure = $("charts").appendChild(document.createElement("figure"));
    const drawing = element("svg", { viewBox: "0 0 300 140", role: "img", "aria-label": title });
    for (const value of most > least ? [most, least] : [most]) {
      drawing.append(element("line", { x1: 40, x2: 290, y1: y(value), y2: y(value) }));
      const text = element("text", { x: 36, y: y(value) + 4, "text-anchor": "end" });
      text.textContent = value.toPrecision(3);
      drawing.append(text);
    }
    for (const [end, i] of new Map([["start", 0], ["end", history.length - 1]])) {
      const text = element("text", { x: x(i), y: 135, "text-anchor": history.length > 1 ? end : "middle" });
      text.textContent = i + 1;
      drawing.append(text);
      if (history.length === 1) break;
    }
    for (const [part, values] of Object.entries(curves)) {
      const points = values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
      drawing.append(element("polyline", { class: part, points: points.join(" ") }));
      for (const point of history.length > 30 ? [] : points) {
        const [cx, cy] = point.split(",");
        drawing.append(element("circle", { class: part, cx, cy, r: 2 }));
      }
    }
    const caption = document.createElement("figcaption");
    caption.textContent = title;
    figure.append(drawing, caption);
  }
}

for (const [value, name] of classes.entries()) {
  const short = name.length > 40 ? `${name.slice(0, 39)}…` : name;
  for (const list of [$("label"), $("predicted")]) list?.add(new Option(short, value));
}
for (const control of [$("label"), $("predicted"), $("wrong-only"), $("order")]) {
  control?.addEventListener("change", select);
}
$("previous").addEventListener("click", () => show(page - 1));
$("next").addEventListener("click", () => show(page + 1));
$("outlines")?.addEventListener("change", (event) => $("rows").classList.toggle("no-outline", !event.target.checked));
$("reset").addEventListener("click", () => {
  controls.label.value = controls.predicted.value = "";
  controls.wrong.checked = false;
  controls.order.value = "index";
  select();
});
if (confusion) {
  // Of all the images, of which the page may have but the first.
  $("num-wrong").textContent = confusion.flat().reduce((a, b) => a + b) - confusion.reduce((a, counts, i) => a + counts[i], 0);
  drawConfusion();
  drawWorst();
  drawClasses();
  if (history.length) drawCharts();
}
select();
