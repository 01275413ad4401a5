// Plays several sounds in step, sample for sample, of which one is heard at a time.
//
// Each sound is an AudioBuffer of the longest one's length behind a gain of its own; all start at the same moment of
// the context's clock, so the change from one to another is a cross-fade of a few milliseconds at the same place.

const FADE = 0.008; // seconds: no click, and short enough to be heard as a switch
const AHEAD = 0.03; // seconds between the order to play and the sound

export class Sounds {
  constructor(count) {
    this.buffers = new Array(count).fill(null);
    this.decibels = new Array(count).fill(0);
    this.heard = 0;
    this.length = 0;
    this.loop = null; // [from, to] in seconds
    this.playing = false;
    this.at = 0; // seconds, where it stands while nothing plays
    this.context = null;
    this.nodes = [];
  }

  // Decodes one sound; a context is made for playing only after somebody pressed something.
  async load(index, url) {
    const answer = await fetch(url, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const data = await answer.arrayBuffer();
    const buffer = await new OfflineAudioContext(2, 1, 48000).decodeAudioData(data);
    this.buffers[index] = buffer;
    this.length = Math.max(this.length, buffer.duration);
  }

  ready() {
    return this.buffers.every((buffer) => buffer);
  }

  time() {
    if (!this.playing) return this.at;
    const latency = this.context.outputLatency || 0;
    const run = Math.max(this.began, this.began + this.context.currentTime - this.zero - latency);
    if (!this.loop || run < this.loop[1]) return Math.min(run, this.length);
    return this.loop[0] + ((run - this.loop[0]) % (this.loop[1] - this.loop[0]));
  }

  ended() {
    return this.playing && !this.loop && this.time() >= this.length - 1e-3;
  }

  async play() {
    if (!this.ready() || this.playing) return;
    this.context = this.context || new AudioContext({ sampleRate: 48000, latencyHint: "interactive" });
    await this.context.resume();
    if (this.at >= this.length - 0.01) this.at = this.loop ? this.loop[0] : 0;
    this.began = this.at;
    this.zero = this.context.currentTime + AHEAD;
    this.nodes = this.buffers.map((buffer, index) => this.start(this.padded(buffer), index));
    this.playing = true;
  }

  start(buffer, index) {
    const source = new AudioBufferSourceNode(this.context, { buffer });
    const gain = new GainNode(this.context, { gain: this.factor(index) });
    if (this.loop) {
      [source.loopStart, source.loopEnd] = this.loop;
      source.loop = true;
    }
    source.connect(gain).connect(this.context.destination);
    source.start(this.zero, this.began);
    return { source, gain };
  }

  pause() {
    if (!this.playing) return;
    this.at = this.time();
    this.playing = false;
    const now = this.context.currentTime;
    for (const { source, gain } of this.nodes) {
      gain.gain.cancelScheduledValues(now);
      gain.gain.setTargetAtTime(0, now, FADE / 4);
      source.stop(now + 2 * FADE);
    }
    this.nodes = [];
  }

  async seek(time) {
    const on = this.playing;
    this.pause();
    this.at = Math.min(Math.max(time, 0), this.length);
    if (on) await this.play();
  }

  async setLoop(loop) {
    const on = this.playing;
    this.pause();
    this.loop = loop && loop[1] - loop[0] > 0.02 ? [loop[0], Math.min(loop[1], this.length)] : null;
    if (this.loop && on && (this.at < this.loop[0] || this.at >= this.loop[1])) this.at = this.loop[0];
    if (on) await this.play();
  }

  hear(index) {
    this.heard = index;
    this.settle();
  }

  // Gains in dB of each sound, when it is heard.
  setDecibels(decibels) {
    this.decibels = decibels;
    this.settle();
  }

  factor(index) {
    return index === this.heard ? 10 ** (this.decibels[index] / 20) : 0;
  }

  settle() {
    this.nodes.forEach(({ gain }, index) => {
      const now = this.context.currentTime;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setValueAtTime(gain.gain.value, now);
      gain.gain.linearRampToValueAtTime(this.factor(index), now + FADE);
    });
  }

  // With silence after it, so that all loop over the same stretch.
  padded(buffer) {
    const length = Math.ceil(this.length * buffer.sampleRate);
    if (buffer.length >= length) return buffer;
    const longer = new AudioBuffer({ length, numberOfChannels: buffer.numberOfChannels, sampleRate: buffer.sampleRate });
    for (let channel = 0; channel < buffer.numberOfChannels; channel++)
      longer.copyToChannel(buffer.getChannelData(channel), channel);
    return longer;
  }

  close() {
    this.pause();
    if (this.context) this.context.close();
    this.context = null;
  }
}
