/** Curves on logarithmic axes as an SVG file: a pure function of their points. */
import { escaped, formatted, line, rounded, text } from './svg.ts';

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** For what is expected rather than measured. */
  readonly isDashed?: boolean;
}

export interface Figure {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
  /** Where the axis of x has its lines and numbers, where 1, 2 and 5 of every decade do not suit. */
  readonly xTicks?: readonly number[];
  /** A second scale of x, along the top. */
  readonly top?: {
    readonly label: string;
    /** How much of x one of it is. */
    readonly unit: number;
  };
}

const WIDTH = 760;
const HEIGHT = 420;
const PLOT = { left: 70, right: 520, top: 44, bottom: 366 };
/** Okabe & Ito's palette, which the colour-blind can tell apart; its yellow is too light on white. */
const COLOURS = ['#000000', '#e69f00', '#56b4e9', '#009e73', '#0072b2', '#d55e00', '#cc79a7', '#999999'];

/** What is not positive is left out. */
export function renderFigure({ title, xLabel, yLabel, series, xTicks, top }: Figure): string {
  const drawn = series.map((each) => ({ ...each, points: each.points.filter(([x, y]) => x > 0 && y > 0) }));
  const points = drawn.flatMap((each) => each.points);
  const xs = points.map((point) => point[0]);
  const x = logScale(xs, PLOT.left, PLOT.right);
  const y = logScale(points.map((point) => point[1]), PLOT.bottom, PLOT.top); // prettier-ignore
  const middle = (PLOT.top + PLOT.bottom) / 2;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${String(WIDTH)} ${String(HEIGHT)}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="#333333">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${String(WIDTH)}" height="${String(HEIGHT)}" fill="#ffffff"/>`,
    text(PLOT.left, 24, title, 'font-size="15" font-weight="600"'),
    ...(xTicks ?? x.ticks).flatMap((tick) => [
      line([x.at(tick), PLOT.top], [x.at(tick), PLOT.bottom], 'stroke="#e3e3e3"'),
      text(x.at(tick), PLOT.bottom + 18, formatted(tick), 'text-anchor="middle"'),
    ]),
    ...(top === undefined
      ? []
      : [
          ...topTicks(xs.map((value) => value / top.unit)).flatMap((tick) => {
            const place = x.at(tick * top.unit);
            return [
              line([place, PLOT.top], [place, PLOT.top - 4], 'stroke="#999999"'),
              text(place, PLOT.top - 6, formatted(tick), 'text-anchor="middle" font-size="10"'),
            ];
          }),
          text(PLOT.left - 8, PLOT.top - 6, top.label, 'text-anchor="end" font-size="10"'),
        ]),
    ...y.ticks.flatMap((tick) => [
      line([PLOT.left, y.at(tick)], [PLOT.right, y.at(tick)], 'stroke="#e3e3e3"'),
      text(PLOT.left - 8, y.at(tick) + 4, formatted(tick), 'text-anchor="end"'),
    ]),
    text((PLOT.left + PLOT.right) / 2, PLOT.bottom + 40, xLabel, 'text-anchor="middle"'),
    `<g transform="translate(18 ${String(middle)}) rotate(-90)">${text(0, 0, yLabel, 'text-anchor="middle"')}</g>`,
    ...drawn.flatMap(({ name, points: own, isDashed = false }, index) => {
      const colour = COLOURS[index % COLOURS.length] ?? '#000000';
      const stroke = `stroke="${colour}" stroke-width="2"${isDashed ? ' stroke-dasharray="6 4"' : ''}`;
      const places = own.map(([a, b]) => [x.at(a), y.at(b)] as const);
      const row = PLOT.top + 8 + 22 * index;
      return [
        `<polyline fill="none" stroke-linejoin="round" ${stroke} points="${places.map(([a, b]) => `${rounded(a)},${rounded(b)}`).join(' ')}"/>`,
        ...(isDashed
          ? []
          : places.map(([a, b]) => `<circle cx="${rounded(a)}" cy="${rounded(b)}" r="3" fill="${colour}"/>`)),
        line([PLOT.right + 16, row], [PLOT.right + 42, row], stroke),
        text(PLOT.right + 50, row + 4, name, ''),
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
  const [low, high] = rangeOf(values);
  const at = (value: number): number => from + ((to - from) * Math.log(value / low)) / Math.log(high / low);
  return { at, ticks: ticksOf(values) };
}

/** With a margin. */
function rangeOf(values: readonly number[]): readonly [low: number, high: number] {
  return [Math.min(...values) / 1.15, Math.max(...values) * 1.15];
}

/** 1, 2 and 5 of every decade, or powers of two where the values are such. */
function ticksOf(values: readonly number[]): number[] {
  const [low, high] = rangeOf(values);
  const arePowersOfTwo = values.every((value) => Number.isInteger(Math.log2(value)));
  const ticks = arePowersOfTwo ? [...new Set(values)] : decadeTicks(low, high);
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** Whole numbers where there are a few. */
function topTicks(values: readonly number[]): number[] {
  const [low, high] = rangeOf(values);
  const whole = Array.from({ length: Math.min(Math.floor(high), 10) }, (_, index) => index + 1).filter(
    (tick) => tick >= low,
  );
  return whole.length > 1 && high < 11 ? whole : ticksOf(values);
}

function decadeTicks(low: number, high: number): number[] {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const decades = Array.from({ length: last - first + 1 }, (_, index) => first + index);
  const digits = last - first > 4 ? [1] : [1, 2, 5];
  // Written out, so that 5e-3 is not 0.005000000000000001.
  return decades.flatMap((decade) => digits.map((digit) => Number(`${String(digit)}e${String(decade)}`)));
}
