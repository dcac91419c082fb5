/** Heat maps side by side as an SVG file, with one scale of colour: a pure function of their numbers. */
import { escaped, formatted, rounded, text } from './svg.ts';

export interface HeatMap {
  readonly title: string;
  readonly xValues: readonly number[];
  readonly yValues: readonly number[];
  readonly yLabel: string;
  /** A row per value of y; what a cell says, too. */
  readonly rows: readonly (readonly number[])[];
}

export interface HeatMapFigure {
  readonly title: string;
  readonly xLabel: string;
  /** Values below are drawn as this one. */
  readonly lowest: number;
  readonly maps: readonly HeatMap[];
}

const COLUMNS = 2;
const CELL = { width: 34, height: 22 };
const MARGIN = { left: 86, top: 46, right: 24, bottom: 44 };
const HEADING = 40;
/** From dark to light, so that it reads in grey and by the colour-blind, too (the ends and three points of viridis). */
const SCALE = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
] as const;

export function renderHeatMaps({ title, xLabel, lowest, maps }: HeatMapFigure): string {
  const highest = Math.max(...maps.flatMap(({ rows }) => rows.flat()));
  const widest = Math.max(...maps.map(({ xValues }) => xValues.length));
  const tallest = Math.max(...maps.map(({ yValues }) => yValues.length));
  const panel = {
    width: MARGIN.left + widest * CELL.width + MARGIN.right,
    height: MARGIN.top + tallest * CELL.height + MARGIN.bottom,
  };
  const width = COLUMNS * panel.width;
  const height = HEADING + Math.ceil(maps.length / COLUMNS) * panel.height;
  const drawn = maps.map((map, index) => {
    const [x, y] = [(index % COLUMNS) * panel.width, HEADING + Math.floor(index / COLUMNS) * panel.height];
    return `<g transform="translate(${rounded(x)} ${rounded(y)})">\n${panelOf(map, xLabel, lowest, highest)}\n</g>`;
  });
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${String(width)} ${String(height)}" role="img" font-family="system-ui, sans-serif" font-size="11" fill="#333333">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${String(width)}" height="${String(height)}" fill="#ffffff"/>`,
    text(MARGIN.left, 26, title, 'font-size="15" font-weight="600"'),
    ...drawn,
    '</svg>',
  ];
  return `${parts.join('\n')}\n`;
}

function panelOf(
  { title, xValues, yValues, yLabel, rows }: HeatMap,
  xLabel: string,
  lowest: number,
  highest: number,
): string {
  const bottom = MARGIN.top + yValues.length * CELL.height;
  const cells = rows.flatMap((row, r) =>
    row.flatMap((value, column) => {
      const share = Math.min(1, Math.max(0, (value - lowest) / (highest - lowest)));
      const [x, y] = [MARGIN.left + column * CELL.width, MARGIN.top + r * CELL.height];
      const ink = share > 0.6 ? '#000000' : '#ffffff';
      return [
        `<rect x="${rounded(x)}" y="${rounded(y)}" width="${String(CELL.width)}" height="${String(CELL.height)}" fill="${colourOf(share)}"/>`,
        text(
          x + CELL.width / 2,
          y + CELL.height / 2 + 4,
          value.toFixed(1),
          `text-anchor="middle" font-size="10" fill="${ink}"`,
        ),
      ];
    }),
  );
  const columns = xValues.map((value, column) =>
    text(MARGIN.left + (column + 0.5) * CELL.width, bottom + 14, labelOf(value), 'text-anchor="middle" font-size="10"'),
  );
  const rowNames = yValues.map((value, r) =>
    text(MARGIN.left - 8, MARGIN.top + (r + 0.5) * CELL.height + 4, formatted(value), 'text-anchor="end"'),
  );
  return [
    text(MARGIN.left, MARGIN.top - 10, title, 'font-weight="600"'),
    ...cells,
    ...columns,
    ...rowNames,
    text(MARGIN.left + (xValues.length * CELL.width) / 2, bottom + 30, xLabel, 'text-anchor="middle"'),
    text(MARGIN.left - 60, MARGIN.top + (yValues.length * CELL.height) / 2 + 4, yLabel, ''),
  ].join('\n');
}

/** As short as fits under a cell. */
function labelOf(value: number): string {
  return value < 1e-3 && value > 0 ? value.toExponential() : formatted(value);
}

/** @param share from 0 to 1 of the way along the scale */
function colourOf(share: number): string {
  const position = share * (SCALE.length - 1);
  const index = Math.min(Math.floor(position), SCALE.length - 2);
  const [from, to] = [SCALE[index] ?? SCALE[0], SCALE[index + 1] ?? SCALE[0]];
  const mixed = from.map((value, channel) => Math.round(value + (position - index) * ((to[channel] ?? value) - value)));
  return `#${mixed.map((value) => value.toString(16).padStart(2, '0')).join('')}`;
}
