// A clip to train on: played, its waveform with a cursor, and where the file is cut.

import { colour, drawWave } from "/static/deck_draw.js";

let playing = null; // one at a time on a page

export default {
  template: '<div class="clip"></div>',
  props: { data: Object },
  mounted() {
    const { data } = this;
    const root = this.$el;
    this.media = document.createElement(data.picture ? "video" : "audio");
    Object.assign(this.media, { src: data.file, preload: data.picture ? "metadata" : "none" });
    this.media.setAttribute("aria-label", data.name);
    if (data.picture) this.media.className = "clip-picture";
    this.button = document.createElement("button");
    Object.assign(this.button, { type: "button", className: "clip-play", textContent: "▶" });
    this.button.addEventListener("click", () => this.toggle());
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", data.waveform);
    this.cursor = document.createElement("div");
    this.cursor.className = "deck-cursor";
    this.cursor.hidden = true;
    const views = document.createElement("div");
    views.className = "clip-views";
    views.append(this.canvas, this.cursor);
    views.addEventListener("click", (event) => this.jump(event, views));
    root.append(this.media);
    root.append(this.button, views);
    for (const name of ["play", "pause", "ended"]) this.media.addEventListener(name, () => this.told());
    this.told();
    this.seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.load();
    });
    this.seen.observe(root);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(views);
  },
  unmounted() {
    this.seen.disconnect();
    this.resized.disconnect();
    cancelAnimationFrame(this.next);
    this.media.pause();
  },
  methods: {
    async load() {
      this.seen.disconnect();
      const answer = await fetch(this.data.wave, { credentials: "same-origin" }).catch(() => null);
      if (!answer || !answer.ok) {
        this.$el.classList.add("clip-unseen");
        this.canvas.setAttribute("aria-label", this.data.unseen);
        return;
      }
      this.shown = await answer.json();
      this.draw();
      this.$el.dataset.ready = "true";
    },
    draw() {
      if (!this.shown) return;
      const { seconds } = this.shown;
      drawWave(this.canvas, this.shown, [0, seconds], 0, null);
      const pen = this.canvas.getContext("2d");
      const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
      const cuts = this.data.cuts.length > 1 || this.data.cuts.some(([from, to]) => from > 0.05 || to < seconds - 0.3) ? this.data.cuts : [];
      for (const [from, to] of cuts) {
        pen.fillStyle = colour(this.canvas, "--deck-range");
        pen.fillRect((from / seconds) * width, 0, ((to - from) / seconds) * width, height);
        pen.fillStyle = colour(this.canvas, "--deck-accent");
        for (const at of [from, to]) pen.fillRect(Math.min(width - 1, Math.round((at / seconds) * width)), 0, 1, height);
      }
    },
    async toggle() {
      if (!this.media.paused) {
        this.media.pause();
        return;
      }
      if (playing && playing !== this.media) playing.pause();
      playing = this.media;
      await this.media.play().catch(() => this.$el.classList.add("clip-unseen"));
    },
    told() {
      const on = !this.media.paused && !this.media.ended;
      this.button.textContent = on ? "❚❚" : "▶";
      this.button.setAttribute("aria-label", `${on ? this.data.pause : this.data.play}: ${this.data.name}`);
      if (on) this.tick();
    },
    tick() {
      cancelAnimationFrame(this.next);
      this.place();
      if (!this.media.paused) this.next = requestAnimationFrame(() => this.tick());
    },
    place() {
      const seconds = this.shown ? this.shown.seconds : this.media.duration || 1;
      this.cursor.hidden = this.media.currentTime === 0;
      this.cursor.style.left = `${(100 * this.media.currentTime) / seconds}%`;
    },
    async jump(event, views) {
      if (!this.shown) return;
      const box = views.getBoundingClientRect();
      this.media.currentTime = ((event.clientX - box.left) / box.width) * this.shown.seconds;
      if (this.media.paused) await this.toggle();
      this.place();
    },
  },
};
