// Takes below each other on one axis of time: played in step, heard one at a time, measured where the cursor is.
//
// A Vue component, of which Vue only keeps the root: everything in it is made here, texts always as text.

import { Sounds } from "/static/deck_sound.js";
import * as draw from "/static/deck_draw.js";

const OFF_BY = 0.07; // seconds that a picture may be off before it is moved
const LEAST_DRAG = 4; // pixels; less is a click
const SPEECHLESS = "no speech";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function filled(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function signed(value) {
  return value.toFixed(1).replace("-", "−");
}

class Deck {
  constructor(root, data, act) {
    Object.assign(this, { root, data, act, texts: data.texts, takes: data.takes });
    this.sounds = new Sounds(this.takes.length);
    this.length = Math.max(...this.takes.map((take) => take.shown.seconds));
    this.sounds.length = this.length;
    this.view = [0, this.length];
    this.selection = null;
    this.looping = false;
    this.matched = false;
    this.differing = false;
    this.chosen = 0;
    this.other = Math.min(1, this.takes.length - 1);
    this.pictures = [];
    this.build();
    this.keys = (event) => this.key(event);
    document.addEventListener("keydown", this.keys);
    root.addEventListener("pointerdown", () => this.touch());
    root.addEventListener("focusin", () => this.touch());
    this.resized = new ResizeObserver(() => this.drawAll());
    this.resized.observe(root);
    this.scheme = new MutationObserver(() => this.drawAll());
    for (const one of [document.documentElement, document.body])
      this.scheme.observe(one, { attributes: true, attributeFilter: ["class", "data-theme", "style"] });
    this.load();
    this.choose(0);
  }

  close() {
    document.removeEventListener("keydown", this.keys);
    this.resized.disconnect();
    this.scheme.disconnect();
    cancelAnimationFrame(this.next);
    this.sounds.close();
  }

  // What is on the page

  build() {
    const { texts } = this;
    const button = (text, key, action, toggles = false) =>
      make(
        "button",
        { type: "button", class: "deck-button", onclick: action, "aria-keyshortcuts": key, "aria-pressed": toggles ? "false" : null },
        make("span", {}, text),
        make("kbd", { "aria-hidden": "true" }, key === "Space" ? "␣" : key),
      );
    this.playButton = button(texts.play, "Space", () => this.toggle());
    this.playButton.classList.add("deck-play");
    this.playButton.disabled = true;
    this.loopButton = button(texts.loop, "L", () => this.setLooping(!this.looping), true);
    this.matchButton = button(texts.matched, "M", () => this.setMatched(!this.matched), true);
    this.differenceButton = button(texts.difference, "D", () => this.setDiffering(!this.differing), true);
    const pictured = this.takes.filter((take) => take.video).length > 1;
    this.slider = make("input", {
      type: "range", class: "deck-slider", min: 0, max: this.length, step: 0.01, value: 0, "aria-label": texts.position,
      oninput: () => this.seek(Number(this.slider.value)),
    });
    this.clock = make("output", { class: "deck-clock" });
    this.status = make("p", { class: "deck-status", role: "status" });
    this.ruler = make("canvas", { class: "deck-ruler", "aria-hidden": "true" });
    this.rows = this.takes.map((take, index) => this.buildTake(take, index));
    this.help = this.buildHelp();
    this.root.classList.toggle("deck-plain", this.takes.every((take) => !take.video));
    this.root.replaceChildren(
      make("div", { class: "deck-bar", role: "toolbar", "aria-label": texts.transport },
        this.playButton, this.clock, this.slider, this.loopButton, this.matchButton,
        pictured ? this.differenceButton : null,
        button(texts.keys, "?", () => this.toggleHelp()),
      ),
      this.help, this.status,
      make("div", { class: "deck-row deck-axis" }, make("span", { class: "deck-left" }, texts.seconds), this.ruler),
      ...this.rows.map((row) => row.element),
      pictured ? this.buildDifference() : "",
    );
  }

  buildTake(take, index) {
    const { texts } = this;
    const row = { take };
    row.choose = make("button",
      { type: "button", class: "deck-letter", "aria-pressed": "false", "aria-keyshortcuts": `${index + 1}`,
        title: filled(texts.hear_this, { key: index + 1 }), onclick: () => this.choose(index) }, take.letter);
    row.screen = take.video
      ? make("video", { class: "deck-screen", src: take.video, poster: take.poster, muted: true, playsinline: true,
          preload: "auto", "aria-label": filled(texts.picture_of, take), onclick: () => this.choose(index) })
      : make("div", { class: "deck-screen deck-blank" }, texts.sound_alone);
    if (take.video) row.screen.muted = true;
    row.wave = make("canvas", { class: "deck-wave", role: "img", "aria-label": filled(texts.waveform_of, take) });
    row.spectrogram = make("canvas",
      { class: "deck-spectrogram", role: "img", "aria-label": filled(texts.spectrogram_of, take) });
    row.strip = make("div", { class: "deck-strip", "aria-hidden": "true" });
    row.cursor = make("div", { class: "deck-cursor" });
    row.range = make("div", { class: "deck-range", hidden: true });
    row.views = make("div", { class: "deck-views" }, row.wave, row.spectrogram, row.strip, row.range, row.cursor);
    this.draggable(row.views, index);
    row.now = make("span", { class: "deck-now" });
    row.stars = this.buildStars(take, index);
    row.note = make("input", { class: "deck-note", type: "text", maxlength: 4000, value: take.note,
      placeholder: texts.note, "aria-label": filled(texts.note_of, take),
      onchange: () => this.act({ do: "note", take: take.id, value: row.note.value }) });
    const small = (text, action, name) => make("button",
      { type: "button", class: `deck-small deck-${name}`, "aria-label": `${text}: ${take.letter}`,
        onclick: () => this.act({ do: action, take: take.id }) }, text);
    row.element = make("article", { class: "deck-row deck-take", "data-take": take.id, "aria-label": take.title },
      make("header", { class: "deck-head" }, row.choose,
        make("span", { class: "deck-title", title: take.title }, take.title),
        make("span", { class: "deck-about" }, take.about)),
      make("div", { class: "deck-left" }, row.screen),
      make("div", { class: "deck-right" }, row.views,
        make("div", { class: "deck-foot" }, this.buildMeter(take), row.now),
        this.data.judged ? make("div", { class: "deck-foot" }, row.stars, row.note, small(texts.export, "export", "export"),
          small(texts.again, "again", "again"),
          take.other_way ? small(take.other_way, "other", "other") : null, small(texts.put_aside, "aside", "aside"),
          small(texts.delete, "delete", "delete")) : null));
    return row;
  }

  buildStars(take, index) {
    const name = `stars-${take.id}`;
    const group = make("fieldset", { class: "deck-stars" },
      make("legend", { class: "deck-hidden" }, filled(this.texts.stars_of, take)));
    for (let count = 1; count <= 5; count++) {
      const radio = make("input", { type: "radio", name, value: count, class: "deck-hidden",
        id: `${name}-${count}`, onchange: () => this.star(index, count) });
      radio.checked = take.stars === count;
      group.append(radio, make("label", { for: `${name}-${count}`, onclick: (event) => {
        if (this.takes[index].stars !== count) return;
        event.preventDefault(); // the same star again takes all of them away
        radio.checked = false;
        this.star(index, 0);
      } }, make("span", { class: "deck-hidden" }, filled(this.texts.star, { count })),
      make("span", { "aria-hidden": "true" }, "★")));
    }
    return group;
  }

  // Measured against asked: the word first, then the three figures it rests on.
  buildMeter(take) {
    const { texts } = this;
    const found = take.shown.measured;
    const right = !take.asked || take.asked === found.register;
    const bar = (name, value, share, text) => make("span",
      { class: "deck-gauge", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1,
        "aria-valuenow": share.toFixed(2), "aria-valuetext": text, title: `${name}: ${text}` },
      make("span", { class: "deck-gauge-name", "aria-hidden": "true" }, name),
      make("span", { class: "deck-gauge-rail", "aria-hidden": "true" },
        make("span", { class: `deck-gauge-fill deck-gauge-${value}`, style: `width:${(100 * share).toFixed(0)}%` })),
      make("span", { class: "deck-gauge-value", "aria-hidden": "true" }, text));
    const percent = (share) => `${Math.round(100 * share)} %`;
    return make("div", { class: "deck-meter" },
      make("strong", { class: `deck-register deck-reg-${found.register.replace(" ", "-")}` }, found.register),
      take.asked
        ? make("span", { class: right ? "deck-asked deck-right-one" : "deck-asked deck-wrong-one" },
            right ? texts.as_asked : filled(texts.but_asked, { asked: take.asked }))
        : null,
      bar(texts.sure, "sure", found.confidence, percent(found.confidence)),
      bar(texts.voiced, "voiced", found.voiced, percent(found.voiced)),
      bar(texts.loud, "loud", Math.max(0, Math.min(1, (found.lufs + 60) / 60)), `${signed(found.lufs)} LUFS`));
  }

  buildDifference() {
    this.differenceCanvas = make("canvas", { class: "deck-screen", role: "img", "aria-label": this.texts.difference });
    this.curve = make("canvas", { class: "deck-curve", "aria-hidden": "true" });
    this.differenceText = make("p", { class: "deck-about", role: "status" });
    this.differenceTitle = make("span", { class: "deck-title" });
    this.differenceRow = make("article", { class: "deck-row deck-difference", hidden: true },
      make("header", { class: "deck-head" }, this.differenceTitle, this.differenceText),
      make("div", { class: "deck-left" }, this.differenceCanvas), make("div", { class: "deck-right" }, this.curve));
    return this.differenceRow;
  }

  buildHelp() {
    const rows = this.texts.key_list.map(([keys, text]) =>
      make("div", {}, make("dt", {}, ...keys.split(" ").map((key) => make("kbd", {}, key))), make("dd", {}, text)));
    return make("dl", { class: "deck-help", hidden: true }, ...rows);
  }

  toggleHelp() {
    this.help.hidden = !this.help.hidden;
  }

  // Loading

  async load() {
    this.say(this.texts.loading);
    const sounds = this.takes.map((take, index) =>
      this.sounds.load(index, take.sound).catch(() => this.failed(take)));
    const pictures = this.takes.map(async (take, index) => {
      try {
        this.pictures[index] = { found: await draw.levelsOf(take.picture) };
      } catch {
        this.failed(take);
      }
    });
    await Promise.all(pictures);
    this.colour();
    this.drawAll();
    await Promise.all(sounds);
    if (!this.sounds.ready()) return;
    this.sounds.length = this.length = Math.max(this.length, this.sounds.length);
    this.playButton.disabled = false;
    this.say("");
    this.root.dataset.ready = "true";
  }

  failed(take) {
    this.broken = filled(this.texts.unreadable, take);
    this.say(this.broken);
  }

  say(text) {
    this.status.textContent = this.broken || text;
  }

  // One scale of level for all, with the gains when loudness is matched.
  colour() {
    const there = this.pictures.map((one, index) => [one, this.gain(index) / this.data.scale]).filter(([one]) => one);
    if (!there.length) return;
    const top = Math.max(...there.map(([one, gain]) => one.found.highest + gain));
    for (const [one, gain] of there) one.image = draw.coloured(one.found, top - gain, this.data.colours, this.data.scale);
  }

  gain(index) {
    return this.matched ? this.takes[index].gain : 0;
  }

  drawAll() {
    draw.drawRuler(this.ruler, this.view);
    this.rows.forEach((row, index) => {
      const { shown } = row.take;
      draw.drawWave(row.wave, shown, this.view, this.gain(index), this.sounds.buffers[index]);
      draw.drawSpectrogram(row.spectrogram, this.pictures[index] && this.pictures[index].image, shown, this.view);
      this.drawStrip(row);
    });
    this.drawDifference();
    this.place();
  }

  drawStrip(row) {
    const cells = row.take.shown.by_second.map((second, number) => {
      const [left, right] = [number, Math.min(number + 1, row.take.shown.seconds)].map((at) => this.across(at));
      if (right <= 0 || left >= 100) return null;
      const word = second.register === SPEECHLESS ? "" : second.register;
      return make("span", { class: `deck-reg-${second.register.replace(" ", "-")}`,
        style: `left:${left}%;width:${right - left}%` }, word);
    });
    row.strip.replaceChildren(...cells.filter((cell) => cell));
  }

  across(time) {
    return (100 * (time - this.view[0])) / (this.view[1] - this.view[0]);
  }

  // Playing

  async toggle() {
    if (this.sounds.playing) this.pause();
    else await this.play();
  }

  async play() {
    if (this.playButton.disabled) return;
    if (this.looping && this.selection && !this.inside(this.sounds.time())) this.sounds.at = this.selection[0];
    await this.sounds.play();
    for (const { screen } of this.rows) if (screen.play) screen.play().catch(() => {});
    this.playButton.firstChild.textContent = this.texts.pause;
    this.tick();
  }

  inside(time) {
    return time >= this.selection[0] && time < this.selection[1];
  }

  pause() {
    this.sounds.pause();
    cancelAnimationFrame(this.next);
    for (const { screen } of this.rows) if (screen.pause) screen.pause();
    this.playButton.firstChild.textContent = this.texts.play;
    this.follow(0.01);
    this.place();
  }

  tick() {
    cancelAnimationFrame(this.next);
    if (!this.sounds.playing) return;
    if (this.sounds.ended()) {
      this.pause();
      this.sounds.at = 0;
      this.place();
      return;
    }
    this.follow(OFF_BY);
    this.place();
    this.drawDifferenceNow();
    this.next = requestAnimationFrame(() => this.tick());
  }

  // Pictures go where the sound is.
  follow(tolerance) {
    const time = this.sounds.time();
    for (const { screen } of this.rows) {
      if (!screen.play || screen.readyState < 1 || screen.seeking) continue;
      const target = Math.min(time, Math.max(0, (screen.duration || 0) - 0.01));
      if (Math.abs(screen.currentTime - target) > tolerance) screen.currentTime = target;
      if (this.sounds.playing && screen.paused && target === time) screen.play().catch(() => {});
    }
  }

  async seek(time) {
    await this.sounds.seek(Math.min(Math.max(time, 0), this.length));
    this.reveal(this.sounds.time());
    this.follow(0.01);
    this.place();
  }

  // Where zoomed in, the view goes along.
  reveal(time) {
    const span = this.view[1] - this.view[0];
    if (span >= this.length || (time >= this.view[0] && time <= this.view[1])) return;
    const from = Math.max(0, Math.min(this.length - span, time - span / 4));
    this.view = [from, from + span];
    this.drawAll();
  }

  place() {
    const time = this.sounds.time();
    const percent = this.across(time);
    for (const row of this.rows) {
      row.cursor.style.left = `${percent}%`;
      row.cursor.hidden = percent < 0 || percent > 100;
      this.placeRange(row);
      const second = row.take.shown.by_second[Math.floor(time)];
      const text = second && second.register !== SPEECHLESS
        ? filled(this.texts.now, { second: Math.floor(time), register: second.register, lufs: signed(second.lufs),
            voiced: Math.round(100 * second.voiced), sure: Math.round(100 * second.confidence) })
        : this.texts.now_nothing;
      if (row.now.textContent !== text) row.now.textContent = text;
    }
    this.slider.value = time;
    this.clock.textContent = `${time.toFixed(2)} / ${this.length.toFixed(2)} s`;
    this.slider.setAttribute("aria-valuetext", this.clock.textContent);
  }

  placeRange(row) {
    row.range.hidden = !this.selection;
    if (!this.selection) return;
    const [left, right] = this.selection.map((at) => Math.max(0, Math.min(100, this.across(at))));
    row.range.style.left = `${left}%`;
    row.range.style.width = `${right - left}%`;
    row.range.classList.toggle("deck-looped", this.looping);
  }

  choose(index) {
    if (index < 0 || index >= this.takes.length) return;
    if (index !== this.chosen) [this.other, this.chosen] = [this.chosen, index];
    this.sounds.hear(this.chosen);
    this.rows.forEach((row, number) => {
      row.element.classList.toggle("deck-heard", number === index);
      row.choose.setAttribute("aria-pressed", String(number === index));
    });
    if (this.differing) this.askDifference();
  }

  async setLooping(on) {
    this.looping = on;
    this.loopButton.setAttribute("aria-pressed", String(on));
    await this.sounds.setLoop(on ? this.selection || [0, this.length] : null);
    this.place();
  }

  async select(selection) {
    this.selection = selection && selection[1] - selection[0] > 0.02 ? selection : null;
    await this.setLooping(this.selection ? true : this.looping && !selection ? false : this.looping);
    if (this.selection && !this.sounds.playing) this.sounds.at = this.selection[0];
    this.follow(0.01);
    this.place();
  }

  setMatched(on) {
    this.matched = on;
    this.matchButton.setAttribute("aria-pressed", String(on));
    this.sounds.setDecibels(this.takes.map((_, index) => this.gain(index)));
    const gains = this.takes.map((take) => `${take.letter} ${take.gain >= 0 ? "+" : ""}${signed(take.gain)}`);
    this.say(on ? filled(this.texts.matched_by, { gains: gains.join(", ") }) : "");
    this.colour();
    this.drawAll();
  }

  star(index, count) {
    const take = this.takes[index];
    take.stars = count;
    const radios = this.rows[index].stars.querySelectorAll("input");
    radios.forEach((radio) => (radio.checked = Number(radio.value) === count));
    this.act({ do: "stars", take: take.id, value: count });
  }

  // The difference of two pictures

  pair() {
    const pictured = [this.chosen, this.other, ...this.takes.keys()].filter((index) => this.takes[index].video);
    return [...new Set(pictured)].slice(0, 2).sort();
  }

  setDiffering(on) {
    if (!this.differenceRow) return;
    this.differing = on;
    this.differenceButton.setAttribute("aria-pressed", String(on));
    this.differenceRow.hidden = !on;
    if (on) this.askDifference();
  }

  askDifference() {
    const [one, other] = this.pair().map((index) => this.takes[index]);
    this.differenceTitle.textContent = filled(this.texts.difference_of, { one: one.letter, other: other.letter });
    const known = this.data.difference;
    if (known && known.one === one.id && known.other === other.id) this.showDifference(known);
    else {
      this.differenceText.textContent = this.texts.comparing;
      this.act({ do: "difference", one: one.id, other: other.id });
    }
    this.drawDifferenceNow();
  }

  showDifference(found) {
    this.data.difference = found;
    if (!this.differing) return;
    this.differenceText.textContent = found.text;
    this.drawDifference();
  }

  drawDifference() {
    const found = this.data.difference;
    if (!this.differing || !found || !found.mean) return;
    const rate = this.takes.find((take) => take.id === found.one).shown.frame_rate;
    draw.drawCurve(this.curve, found.mean, rate, this.view, Math.max(1, ...found.mean));
    this.drawDifferenceNow();
  }

  drawDifferenceNow() {
    if (!this.differing) return;
    const [one, other] = this.pair().map((index) => this.rows[index].screen);
    draw.drawDifference(this.differenceCanvas, one, other);
  }

  // Pointer and keys

  draggable(views, index) {
    let from = null;
    const timeAt = (event) => {
      const box = views.getBoundingClientRect();
      const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
      return this.view[0] + share * (this.view[1] - this.view[0]);
    };
    views.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      from = { x: event.clientX, time: timeAt(event), dragged: false };
      views.setPointerCapture(event.pointerId);
    });
    views.addEventListener("pointermove", (event) => {
      if (!from || (!from.dragged && Math.abs(event.clientX - from.x) < LEAST_DRAG)) return;
      from.dragged = true;
      this.selection = [from.time, timeAt(event)].sort((a, b) => a - b);
      this.place();
    });
    views.addEventListener("pointerup", async (event) => {
      if (!from) return;
      const { dragged, time } = from;
      from = null;
      if (dragged) {
        await this.select([time, timeAt(event)].sort((a, b) => a - b));
        return;
      }
      if (this.selection && !this.inside(time)) await this.select(null);
      this.choose(index);
      await this.seek(time);
    });
    views.addEventListener("pointercancel", () => (from = null));
  }

  zoom() {
    const whole = this.view[0] === 0 && this.view[1] === this.length;
    this.view = whole && this.selection ? [...this.selection] : [0, this.length];
    this.drawAll();
  }

  setEdge(first) {
    const time = this.sounds.time();
    const [from, to] = this.selection || [0, this.length];
    return this.select(first ? [time, Math.max(to, time)] : [Math.min(from, time), time]);
  }

  key(event) {
    const target = event.target;
    const typing = target.closest && target.closest("input:not([type=range]):not([type=radio]), textarea, select, [contenteditable=true], [role=dialog]");
    if (typing || event.defaultPrevented || document.querySelector("[role=dialog]")) return;
    if ((event.ctrlKey || event.metaKey) && event.key === "z") {
      event.preventDefault();
      this.act({ do: "undo" });
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !this.active()) return;
    if (target.closest && target.closest("button, a, summary, [role=tab]") && (event.key === " " || event.key === "Enter")) return;
    const ranged = target.matches && target.matches("input[type=range], input[type=radio]");
    if (ranged && (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End")) return;
    const action = this.actionOf(event);
    if (!action) return;
    event.preventDefault();
    action();
  }

  // Of several decks on a page the one that was touched last, or else the first, hears the keys.
  active() {
    const decks = [...document.querySelectorAll(".deck")];
    const last = decks.find((one) => one.dataset.touched) || decks[0];
    return last === this.root;
  }

  touch() {
    for (const one of document.querySelectorAll(".deck")) {
      if (one !== this.root && one.dataset.touched) {
        delete one.dataset.touched;
        one.deck.pause();
      }
    }
    this.root.dataset.touched = "true";
  }

  actionOf(event) {
    const frame = 1 / (this.takes.map((take) => take.shown.frame_rate).find((rate) => rate) || 100);
    const step = event.shiftKey ? 1 : 0.1;
    const now = () => this.sounds.time();
    const simple = {
      " ": () => this.toggle(), x: () => this.choose(this.other), l: () => this.setLooping(!this.looping),
      m: () => this.setMatched(!this.matched), d: () => this.setDiffering(!this.differing), z: () => this.zoom(),
      "[": () => this.setEdge(true), "]": () => this.setEdge(false), "?": () => this.toggleHelp(),
      Escape: () => this.select(null), Home: () => this.seek(0), End: () => this.seek(this.length),
      ArrowLeft: () => this.seek(now() - step), ArrowRight: () => this.seek(now() + step),
      ArrowUp: () => this.choose(this.chosen - 1), ArrowDown: () => this.choose(this.chosen + 1),
      ",": () => this.seek(now() - frame), ".": () => this.seek(now() + frame),
    };
    const take = this.takes[this.chosen];
    const judging = {
      s: () => this.star(this.chosen, take.stars === 5 ? 0 : take.stars + 1), n: () => this.rows[this.chosen].note.focus(),
      e: () => this.act({ do: "export", take: take.id }), Delete: () => this.act({ do: "delete", take: take.id }),
    };
    const known = this.data.judged ? { ...simple, ...judging } : simple;
    const found = known[event.key] || known[event.key.toLowerCase()];
    if (found) return found;
    const number = Number(event.key);
    return number >= 1 && number <= this.takes.length ? () => this.choose(number - 1) : null;
  }
}

export default {
  template: '<div class="deck"></div>',
  props: { data: Object },
  emits: ["act"],
  mounted() {
    this.open();
  },
  unmounted() {
    if (this.deck) this.deck.close();
  },
  methods: {
    open() {
      if (this.deck) this.deck.close();
      delete this.$el.dataset.ready;
      this.deck = new Deck(this.$el, JSON.parse(JSON.stringify(this.data)), (what) => this.$emit("act", what));
      this.$el.deck = this.deck;
    },
    show_difference(found) {
      this.deck.showDifference(found);
    },
  },
};
