// Waveforms, spectrograms and rulers on canvases. A view is [from, to] in seconds over the whole width.

const RANGE_DB = 80;
const TICKS_HZ = [250, 500, 1000, 2000, 4000, 8000, 16000];
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600];

// Makes the canvas as fine as the screen; its context in CSS pixels, and its size.
export function prepared(canvas) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

export function colour(element, name) {
  return getComputedStyle(element).getPropertyValue(name).trim() || "currentColor";
}

export function drawWave(canvas, shown, view, gain, buffer) {
  const { pen, width, height } = prepared(canvas);
  const middle = height / 2;
  pen.fillStyle = colour(canvas, "--deck-line");
  pen.fillRect(0, Math.round(middle), width, 1);
  pen.fillStyle = colour(canvas, "--deck-wave");
  const factor = 10 ** (gain / 20);
  const bound = (value) => Math.max(-1, Math.min(1, value * factor)) * (middle - 1);
  for (let x = 0; x < width; x++) {
    const from = view[0] + ((view[1] - view[0]) * x) / width;
    const to = view[0] + ((view[1] - view[0]) * (x + 1)) / width;
    const found = buffer && view[1] - view[0] < shown.seconds / 2 ? exactly(buffer, from, to) : roughly(shown, from, to);
    if (!found) continue;
    const top = middle - bound(found[1]);
    pen.fillRect(x, top, 1, Math.max(1, middle - bound(found[0]) - top));
  }
}

function roughly(shown, from, to) {
  const columns = shown.low.length;
  const first = Math.floor((from / shown.seconds) * columns);
  const last = Math.min(columns, Math.max(first + 1, Math.ceil((to / shown.seconds) * columns)));
  if (first >= columns || first < 0) return null;
  let low = 127;
  let high = -127;
  for (let column = first; column < last; column++) {
    low = Math.min(low, shown.low[column]);
    high = Math.max(high, shown.high[column]);
  }
  return [low / 127, high / 127];
}

function exactly(buffer, from, to) {
  const first = Math.floor(from * buffer.sampleRate);
  const last = Math.min(buffer.length, Math.max(first + 1, Math.ceil(to * buffer.sampleRate)));
  if (first >= buffer.length || first < 0) return null;
  let low = 1;
  let high = -1;
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let at = first; at < last; at++) {
      if (samples[at] < low) low = samples[at];
      if (samples[at] > high) high = samples[at];
    }
  }
  return [low, high];
}

// The grey levels of a spectrogram's picture, and the highest of them.
export async function levelsOf(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const levels = new Uint8Array(data.length / 4);
  let highest = 0;
  for (let at = 0; at < levels.length; at++) {
    levels[at] = data[4 * at];
    if (levels[at] > highest) highest = levels[at];
  }
  return { levels, width: canvas.width, height: canvas.height, highest };
}

// Colours for grey levels: 80 dB down from `top`, a level that several spectrograms share.
export function coloured(found, top, colours, scale) {
  const canvas = new OffscreenCanvas(found.width, found.height);
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(found.width, found.height);
  const table = Uint32Array.from({ length: 256 }, (_, level) => {
    const share = 1 - ((top - level) * scale) / RANGE_DB;
    const [red, green, blue] = colours[Math.max(0, Math.min(255, Math.round(255 * share)))];
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  });
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < pixels.length; at++) pixels[at] = table[found.levels[at]];
  pen.putImageData(image, 0, 0);
  return canvas;
}

export function drawSpectrogram(canvas, picture, shown, view) {
  const { pen, width, height } = prepared(canvas);
  if (!picture) return;
  const across = picture.width / shown.seconds;
  const to = Math.min(view[1], shown.seconds);
  if (to <= view[0]) return;
  const wide = (width * (to - view[0])) / (view[1] - view[0]);
  pen.drawImage(picture, view[0] * across, 0, (to - view[0]) * across, picture.height, 0, 0, wide, height);
  pen.font = "10px system-ui, sans-serif";
  pen.textBaseline = "middle";
  let above = height + 6;
  for (const hertz of TICKS_HZ.filter((one) => one < shown.top * 0.97)) {
    const y = height * (1 - mel(hertz) / mel(shown.top));
    if (above - y < 12) continue;
    above = y;
    pen.fillStyle = "rgba(255, 255, 255, 0.25)";
    pen.fillRect(0, Math.round(y), 5, 1);
    pen.fillStyle = "rgba(255, 255, 255, 0.85)";
    pen.fillText(hertz < 1000 ? `${hertz}` : `${hertz / 1000}k`, 8, y);
  }
}

function mel(hertz) {
  return 2595 * Math.log10(1 + hertz / 700);
}

export function drawRuler(canvas, view) {
  const { pen, width, height } = prepared(canvas);
  const span = view[1] - view[0];
  const step = STEPS.find((one) => (one / span) * width >= 56) || 3600;
  pen.fillStyle = colour(canvas, "--deck-faint");
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "top";
  for (let number = Math.ceil(view[0] / step); number * step <= view[1] + 1e-9; number++) {
    const x = ((number * step - view[0]) / span) * width;
    pen.fillRect(Math.round(x), height - 6, 1, 6);
    const text = `${+(number * step).toFixed(2)}`;
    const wide = pen.measureText(text).width;
    pen.fillText(text, Math.min(Math.max(0, x - wide / 2), width - wide), 1);
  }
}

// A curve of one value a frame, on the deck's own axis of time.
export function drawCurve(canvas, values, rate, view, most) {
  const { pen, width, height } = prepared(canvas);
  pen.strokeStyle = colour(canvas, "--deck-accent");
  pen.lineWidth = 1.5;
  pen.beginPath();
  values.forEach((value, index) => {
    const x = (((index + 0.5) / rate - view[0]) / (view[1] - view[0])) * width;
    const y = height - 1 - (height - 3) * Math.min(1, value / most);
    if (index) pen.lineTo(x, y);
    else pen.moveTo(x, y);
  });
  pen.stroke();
}

// |a - b| of two videos' pictures, eight times as bright.
export function drawDifference(canvas, one, other) {
  const { pen, width, height } = prepared(canvas);
  if (one.readyState < 2 || other.readyState < 2) return;
  pen.globalCompositeOperation = "copy";
  pen.drawImage(one, 0, 0, width, height);
  pen.globalCompositeOperation = "difference";
  pen.drawImage(other, 0, 0, width, height);
  pen.globalCompositeOperation = "lighter";
  pen.setTransform(1, 0, 0, 1, 0, 0);
  for (let times = 0; times < 3; times++) pen.drawImage(canvas, 0, 0);
  pen.globalCompositeOperation = "source-over";
}
