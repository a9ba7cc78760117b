"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const count = new Intl.NumberFormat("en-US");
  const format = (value) => {
    const size = Math.abs(value);
    return size >= 1000 && size < 1e9 ? count.format(Math.round(value)) : String(Number(value.toPrecision(4)));
  };
  const short = (value, size = Math.abs(value)) => {
    const [unit, letter] = size >= 1e9 ? [1e9, "B"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
    return Number((value / unit).toPrecision(6)) + letter;
  };
  const element = (parent, name, attributes = {}, text = "", space = "http://www.w3.org/2000/svg") => {
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return parent.appendChild(made);
  };
  const html = (parent, name, attributes, text) => element(parent, name, attributes, text, "http://www.w3.org/1999/xhtml");

  const colour = (line) => `c${line.colour % 8}${line.colour < 8 ? "" : " dashed"}`; // 8 in page.css

  let smoothing = 0.02; // half-life as a share of the axis
  let hovered = null; // images seen under the cross-hair, in all charts
  let now = null; // images seen on the slider of the samples
  let move = () => {}; // the slider, to the sheets at a number of images seen

  // Scales

  function nice(low, high, wanted) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const ticks = [];
    for (let i = Math.ceil(low / step); i <= Math.floor(high / step) && ticks.length < 20; i++) ticks.push(i * step);
    return ticks;
  }
  function decades(low, high) {
    const factors = Math.log10(high / low) > 1.6 ? [1] : [1, 2, 5];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const factor of factors) ticks.push(factor * 10 ** power);
    const inside = ticks.filter((tick) => tick >= low && tick <= high);
    const stride = Math.ceil(inside.length / 6);
    return inside.filter((_, index) => index % stride === 0);
  }

  // Curves

  /** Exponential average over images seen, without bias at the start. Combined points weigh like single ones. */
  function smooth(line) {
    const life = smoothing * data.end;
    let sum = 0, weight = 0, before = line.x[0];
    return line.y.map((value, i) => {
      if (value === null) return null;
      const keep = 0.5 ** ((line.x[i] - before) / life);
      before = line.x[i];
      sum = keep * sum + value;
      weight = keep * weight + 1;
      return sum / weight;
    });
  }
  function nearest(line, images) {
    let best = -1;
    line.x.forEach((x, i) => {
      if (line.y[i] !== null && (best < 0 || Math.abs(x - images) < Math.abs(line.x[best] - images))) best = i;
    });
    return best;
  }

  class Chart {
    constructor(parent, { title, text, steep, lines }, smooth) {
      Object.assign(this, { lines, smooth });
      const finite = lines.flatMap((line) => [...line.y, ...(line.low ?? []), ...(line.high ?? [])]).filter((y) => y !== null);
      this.extent = finite.reduce(([low, high], y) => [Math.min(low, y), Math.max(high, y)], [Infinity, -Infinity]);
      this.log = steep && this.extent[0] > 0 && this.extent[1] > 100 * this.extent[0];
      this.stops = [...new Set(lines.flatMap((line) => line.x.filter((_, i) => line.y[i] !== null)))];
      this.stops.sort((a, b) => a - b);

      const figure = html(parent, "figure", { class: "chart" });
      const caption = html(figure, "figcaption");
      html(caption, "h3", {}, title);
      const button = html(caption, "button", { type: "button", "aria-pressed": this.log, "aria-label": `Logarithmic scale: ${title}` }, "log");
      html(caption, "small", {}, text);
      this.plot = html(figure, "div", { class: "plot", role: "slider", tabindex: 0, "aria-label": title });
      const legend = html(figure, "ul", { class: "legend" });
      this.readings = lines.map((line) => {
        const entry = html(legend, "li");
        html(entry, "i", { class: `key ${colour(line)}` });
        html(entry, "span", {}, line.label);
        return html(entry, "b", {}, line.last);
      });
      button.disabled = !(this.extent[0] > 0);
      button.addEventListener("click", () => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", this.log);
        this.draw();
      });
      this.say(data.end, lines.map((line) => line.last));
      this.plot.addEventListener("pointermove", (event) => hover(this.imagesAt(event)));
      this.plot.addEventListener("pointerleave", () => hover(null));
      this.plot.addEventListener("blur", () => hover(null));
      this.plot.addEventListener("click", (event) => move(this.imagesAt(event)));
      this.plot.addEventListener("keydown", (event) => this.onKey(event));
      new ResizeObserver(() => this.draw()).observe(this.plot);
    }

    say(images, values) {
      const named = values.map((value, i) => `${this.lines[i].label} ${value}`.trim());
      const text = `${count.format(Math.round(images))} images: ${named.join(", ")}`;
      for (const [key, value] of Object.entries({ min: 0, max: data.end, now: Math.round(images), text }))
        this.plot.setAttribute(`aria-value${key}`, value);
    }

    imagesAt(event) {
      const { left, right } = this.area;
      const x = event.clientX - this.plot.getBoundingClientRect().left;
      return Math.min(1, Math.max(0, (x - left) / (right - left))) * data.end;
    }

    onKey(event) {
      const last = this.stops.length - 1;
      const at = hovered === null ? last : this.stops.findLastIndex((stop) => stop <= hovered);
      const places = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last,
        PageDown: at - 10, PageUp: at + 10 };
      if (event.key === "Escape") hover(null);
      else if (event.key === "Enter") move(hovered ?? data.end);
      else if (event.key in places) hover(this.stops[Math.min(last, Math.max(0, places[event.key]))] ?? null);
      else return;
      event.preventDefault();
    }

    draw() {
      const width = this.plot.clientWidth, height = this.plot.clientHeight;
      if (!width) return;
      let [low, high] = this.extent;
      if (low > high) [low, high] = [0, 1]; // no finite value
      const log = this.log && low > 0;
      if (low === high) [low, high] = [low / (log ? 2 : 1), high * 2 || 1].sort((a, b) => a - b);
      if (!log && low > 0 && low <= 0.5 * high) low = 0;
      const ticks = log ? decades(low, high) : nice(low, high, 4);
      if (!log && ticks.length > 1) { // whole steps, so that no curve touches the frame
        const step = ticks[1] - ticks[0];
        if (low < ticks[0]) ticks.unshift((low = ticks[0] - step));
        if (high > ticks.at(-1)) ticks.push((high = ticks.at(-1) + step));
      }
      const to = log ? Math.log : (value) => value;
      const labels = ticks.map((tick) => short(tick, log ? undefined : Math.max(...ticks.map(Math.abs))));
      const left = 12 + 6.4 * Math.max(1, ...labels.map((label) => label.length));
      this.area = { left, right: width - 8, top: 8, bottom: height - 20 };
      const { right, top, bottom } = this.area;
      const x = (images) => left + (images / data.end) * (right - left);
      const y = (value) => bottom - ((to(value) - to(low)) / (to(high) - to(low))) * (bottom - top);
      Object.assign(this, { x, y });

      this.plot.textContent = "";
      const svg = element(this.plot, "svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
      ticks.forEach((tick, i) => {
        element(svg, "line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) });
        element(svg, "text", { x: left - 7, y: y(tick) + 3.5, "text-anchor": "end" }, labels[i]);
      });
      element(svg, "line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
      const marks = nice(0, data.end, Math.max(2, Math.floor((right - left) / 75)));
      marks.forEach((mark, i) => {
        const anchor = x(mark) > right - 16 ? "end" : "middle";
        element(svg, "text", { x: x(mark), y: bottom + 15, "text-anchor": anchor }, i ? short(mark, marks.at(-1)) : "0");
      });
      this.under = element(svg, "g", {});
      for (const line of this.lines) this.drawRaw(svg, line); // below the smooth curves of all
      for (const line of this.lines) this.drawLine(svg, line);
      this.over = element(svg, "g", {});
      this.mark();
    }

    path(svg, line, values, kind = "line") {
      let d = "", open = false;
      values.forEach((value, i) => {
        if (value !== null) d += `${open ? "L" : "M"}${this.x(line.x[i]).toFixed(1)},${this.y(value).toFixed(1)}`;
        open = value !== null;
      });
      element(svg, "path", { class: `${kind} ${colour(line)}`, d });
    }

    drawRaw(svg, line) {
      if (line.low) { // each combined point as a bar from its lowest to its highest value
        const bar = (images, i) => `M${this.x(images).toFixed(1)},${this.y(line.low[i]).toFixed(1)}V${this.y(line.high[i]).toFixed(1)}`;
        const d = line.x.map((images, i) => (line.low[i] === null ? "" : bar(images, i))).join("");
        element(svg, "path", { class: `raw ${colour(line)}`, d });
      }
      if (this.smooth && smoothing > 0) this.path(svg, line, line.y, "raw");
    }

    drawLine(svg, line) {
      const { x, y } = this;
      this.path(svg, line, this.smooth && smoothing > 0 ? smooth(line) : line.y);
      const sparse = !this.smooth && line.x.length < 40;
      line.x.forEach((images, i) => { // a value between two gaps has no line
        const alone = (line.y[i - 1] ?? null) === null && (line.y[i + 1] ?? null) === null;
        if (line.y[i] !== null && (alone || sparse))
          element(svg, "circle", { class: `dot ${colour(line)}`, cx: x(images), cy: y(line.y[i]), r: 3.5 });
      });
      const best = line.x.indexOf(line.best);
      if (best >= 0 && line.y[best] !== null)
        element(svg, "circle", { class: `ring ${colour(line)}`, cx: x(line.best), cy: y(line.y[best]), r: 4.5 });
    }

    /** The cross-hair with the values at it, and a mark where the samples on the slider are. */
    mark() {
      if (!this.area) return;
      const { top, bottom } = this.area;
      const rule = (parent, kind, images) =>
        element(parent, "line", { class: kind, x1: this.x(images), x2: this.x(images), y1: top, y2: bottom });
      this.under.textContent = this.over.textContent = "";
      if (now !== null) rule(this.under, "now", now);
      if (hovered === null) return this.readings.forEach((reading, i) => (reading.textContent = this.lines[i].last));
      rule(this.over, "cross", hovered);
      const values = this.lines.map((line, i) => {
        const at = nearest(line, hovered);
        if (at < 0) return "";
        element(this.over, "circle", { class: `dot ${colour(line)}`, cx: this.x(line.x[at]), cy: this.y(line.y[at]), r: 4 });
        return (this.readings[i].textContent = format(line.y[at]));
      });
      this.say(hovered, values);
    }
  }

  function hover(images) {
    hovered = images;
    for (const chart of charts) chart.mark();
  }

  const charts = ["scores", "training"].flatMap((part) => {
    const place = document.querySelector(`#${part} .charts`);
    return data[part].map((chart) => new Chart(place, chart, part === "training"));
  });
  const reveal = (part, some) => {
    const section = document.getElementById(part);
    for (const controls of all(".controls", section)) controls.hidden = !some;
    for (const hint of all(":scope > .empty, :scope > .note", section)) hint.hidden = some === hint.matches(".empty");
  };
  reveal("scores", data.scores.length > 0);
  reveal("training", data.training.length > 0);

  const slider = document.getElementById("smoothing");
  const smoothed = () => {
    smoothing = slider.value / 100;
    slider.nextElementSibling.textContent = `${slider.value} %`;
    for (const chart of charts) chart.draw();
  };
  slider.addEventListener("input", smoothed);
  smoothed();

  // Samples

  const time = document.getElementById("time");
  for (const sheets of all(".sheets")) {
    const enlarge = () => sheets.setAttribute("aria-pressed", sheets.parentElement.classList.toggle("large"));
    sheets.addEventListener("click", enlarge);
    sheets.addEventListener("keydown", (event) => event.key === "Enter" && enlarge());
  }
  for (const image of all(".sheets img")) {
    const mark = () => image.classList.toggle("small", image.naturalWidth < 400);
    if (image.complete) mark();
    image.addEventListener("load", mark);
  }
  const groups = all(".sheets").map((sheets) => all("img[data-x]", sheets)).filter((images) => images.length);
  reveal("samples", groups.length > 0);
  if (groups.length) {
    const seen = (image) => Number(image.dataset.x);
    const stops = [...new Set(groups.flat().map(seen))].sort((a, b) => a - b);
    const bests = [...new Set(all("img[data-best]").map(seen))];
    time.max = stops.length - 1;
    time.value = time.max;
    move = (images) => {
      time.value = Math.max(0, stops.findLastIndex((stop) => stop <= images));
      show();
    };
    function show() {
      now = stops[time.value];
      for (const images of groups) {
        const shown = images.findLast((image) => seen(image) <= now) ?? images[0];
        for (const image of images) image.hidden = image !== shown;
        shown.closest("figure").querySelector("figcaption").textContent = shown.alt;
      }
      document.getElementById("now").textContent = count.format(now);
      time.setAttribute("aria-valuetext", `${count.format(now)} images seen`);
      for (const chart of charts) chart.mark();
    }
    let timer = 0;
    const play = document.getElementById("play");
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.setAttribute("aria-pressed", false);
    };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (time.value === time.max) time.value = 0;
      play.setAttribute("aria-pressed", true);
      show();
      timer = setInterval(() => {
        time.value = Number(time.value) + 1;
        show();
        if (time.value === time.max) stop();
      }, Math.max(80, Math.min(500, 8000 / stops.length)));
    });
    time.addEventListener("input", () => {
      stop();
      show();
    });
    const best = document.getElementById("best");
    best.hidden = !bests.length;
    best.addEventListener("click", () => move(bests[(bests.indexOf(now) + 1) % bests.length]));
    show();
  }

  addEventListener("beforeprint", () => all("details").forEach((details) => (details.open = true)));
}
