/** Parts of SVG files. */

type Place = readonly [x: number, y: number];

export function line([x1, y1]: Place, [x2, y2]: Place, attributes: string): string {
  return `<line x1="${rounded(x1)}" y1="${rounded(y1)}" x2="${rounded(x2)}" y2="${rounded(y2)}" ${attributes}/>`;
}

export function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${rounded(x)}" y="${rounded(y)}"${attributes === '' ? '' : ` ${attributes}`}>${escaped(content)}</text>`;
}

export function rounded(value: number): string {
  return String(Math.round(10 * value) / 10);
}

export function formatted(value: number): string {
  return value.toLocaleString('en', { maximumSignificantDigits: 4 });
}

export function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
