// Curves over the steps of a run, in the colours of the page.

import { colour, prepared } from "/static/deck_draw.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [52, 12, 10, 34];

function round(rough) {
  const unit = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * unit).find((one) => one >= rough * 0.999);
}

export default {
  template: '<div class="curves"><canvas role="img"></canvas></div>',
  props: { data: Object },
  mounted() {
    this.$el.curves = this;
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.$el);
    this.scheme = new MutationObserver(() => this.draw());
    this.scheme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  },
  unmounted() {
    this.resized.disconnect();
    this.scheme.disconnect();
  },
  watch: {
    data() {
      this.draw();
    },
  },
  methods: {
    draw() {
      const canvas = this.$el.firstElementChild;
      canvas.setAttribute("aria-label", this.data.label);
      const { pen, width, height } = prepared(canvas);
      const points = this.data.lines.flatMap((line) => line.points);
      if (!points.length) return;
      const xStep = Math.max(1, round(Math.max(1, this.data.steps) / 6));
      const right = Math.max(this.data.steps, ...points.map(([x]) => x));
      const yStep = round(Math.max(...points.map(([, y]) => y), 1e-6) / 4);
      const top = yStep * Math.ceil(Math.max(...points.map(([, y]) => y)) / yStep);
      const across = (x) => LEFT + ((width - LEFT - RIGHT) * x) / right;
      const up = (y) => TOP + (height - TOP - BOTTOM) * (1 - y / top);
      this.frame(pen, canvas, { across, up, right, top, xStep, yStep, width, height });
      this.data.lines.forEach((line) => this.line(pen, canvas, line, across, up));
    },
    frame(pen, canvas, { across, up, right, top, xStep, yStep, width, height }) {
      pen.font = "11px system-ui, sans-serif";
      pen.textBaseline = "middle";
      for (let y = 0; y <= top * 1.001; y += yStep) {
        pen.fillStyle = colour(canvas, "--deck-line");
        pen.fillRect(LEFT, Math.round(up(y)), width - LEFT - RIGHT, 1);
        pen.fillStyle = colour(canvas, "--deck-faint");
        pen.textAlign = "right";
        pen.fillText(`${+y.toPrecision(6)}`, LEFT - 6, up(y));
      }
      pen.textAlign = "center";
      for (let x = 0; x <= right * 1.001; x += xStep) pen.fillText(`${x}`, across(x), height - BOTTOM + 12);
      pen.fillText(this.data.x, across(right / 2), height - 7);
    },
    line(pen, canvas, { points, kind }, across, up) {
      pen.strokeStyle = pen.fillStyle = colour(canvas, kind === "dots" ? "--reg-soft" : "--deck-accent");
      pen.globalAlpha = kind === "faint" ? 0.35 : 1;
      pen.lineWidth = kind === "faint" ? 1 : 2;
      pen.beginPath();
      points.forEach(([x, y], index) => (index ? pen.lineTo(across(x), up(y)) : pen.moveTo(across(x), up(y))));
      pen.stroke();
      if (kind === "dots" || points.length === 1)
        for (const [x, y] of points) {
          pen.beginPath();
          pen.arc(across(x), up(y), 3.5, 0, 2 * Math.PI);
          pen.fill();
        }
      pen.globalAlpha = 1;
    },
  },
};
