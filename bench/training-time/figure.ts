/** Curves over seconds as an SVG file: a pure function of its points. */

export interface Series {
  readonly name: string;
  /** Seconds and value. */
  readonly points: readonly (readonly [number, number])[];
}

export interface Figure {
  readonly title: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
}

const WIDTH = 720;
const HEIGHT = 420;
const PLOT = { left: 64, right: 470, top: 40, bottom: 372 };
/** Okabe & Ito's palette, which the colour-blind can tell apart. */
const COLOURS = ['#000000', '#e69f00', '#56b4e9', '#009e73', '#0072b2', '#d55e00', '#cc79a7', '#999999'];
const DASHES = ['none', '6 3'];

/** Both axes are logarithmic; what is not positive is left out. */
export function renderFigure({ title, yLabel, series }: Figure): string {
  const drawn = series.map(({ name, points }) => ({ name, points: points.filter(([x, y]) => x > 0 && y > 0) }));
  const all = drawn.flatMap(({ points }) => points);
  const x = logScale(all.map(([seconds]) => seconds), PLOT.left, PLOT.right); // prettier-ignore
  const y = logScale(all.map(([, value]) => value), PLOT.bottom, PLOT.top); // prettier-ignore
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${String(WIDTH)} ${String(HEIGHT)}" font-family="sans-serif" font-size="12">`,
    `<rect width="${String(WIDTH)}" height="${String(HEIGHT)}" fill="#ffffff"/>`,
    text(PLOT.left, 22, escaped(title), 'font-size="14" font-weight="bold"'),
    ...x.ticks.map((tick) => gridLine(x.at(tick), PLOT.top, x.at(tick), PLOT.bottom)),
    ...x.ticks.map((tick) => text(x.at(tick), PLOT.bottom + 18, String(tick), 'text-anchor="middle"')),
    ...y.ticks.map((tick) => gridLine(PLOT.left, y.at(tick), PLOT.right, y.at(tick))),
    ...y.ticks.map((tick) => text(PLOT.left - 6, y.at(tick) + 4, String(tick), 'text-anchor="end"')),
    text((PLOT.left + PLOT.right) / 2, PLOT.bottom + 38, 'seconds of training', 'text-anchor="middle"'),
    text(0, 0, escaped(yLabel), `text-anchor="middle" transform="translate(16 ${String((PLOT.top + PLOT.bottom) / 2)}) rotate(-90)"`), // prettier-ignore
    ...drawn.flatMap(({ name, points }, index) => {
      const colour = COLOURS[index % COLOURS.length] ?? '#000000';
      const dash = DASHES[Math.floor(index / COLOURS.length) % DASHES.length] ?? 'none';
      const stroke = `stroke="${colour}" stroke-width="2" stroke-dasharray="${dash}"`;
      const path = points.map(([seconds, value]) => `${round(x.at(seconds))},${round(y.at(value))}`).join(' ');
      const line = PLOT.top + 10 + 22 * index;
      return [
        `<polyline fill="none" ${stroke} points="${path}"/>`,
        ...points.map(([seconds, value]) => `<circle cx="${round(x.at(seconds))}" cy="${round(y.at(value))}" r="2.5" fill="${colour}"/>`), // prettier-ignore
        `<line x1="${String(PLOT.right + 14)}" y1="${String(line)}" x2="${String(PLOT.right + 36)}" y2="${String(line)}" ${stroke}/>`,
        text(PLOT.right + 42, line + 4, escaped(name), 'font-size="11"'),
      ];
    }),
    '</svg>',
  ];
  return `${parts.join('\n')}\n`;
}

interface LogScale {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

function logScale(values: readonly number[], from: number, to: number): LogScale {
  const low = Math.min(...values) / 1.1;
  const high = Math.max(...values) * 1.1;
  const at = (value: number): number => from + ((to - from) * Math.log(value / low)) / Math.log(high / low);
  const ticks: number[] = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++) {
    for (const digit of [1, 2, 5]) {
      // Written out, so that 5e-3 is not 0.005000000000000001.
      const tick = Number(`${String(digit)}e${String(decade)}`);
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  return { at, ticks };
}

function gridLine(x1: number, y1: number, x2: number, y2: number): string {
  return `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" stroke="#dddddd"/>`;
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${content}</text>`;
}

function round(value: number): string {
  return String(Math.round(10 * value) / 10);
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
