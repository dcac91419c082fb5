/** The results as Markdown and images: pure functions of the stored JSON, which a test holds the page to. */
import { markdownTable } from '../markdown.ts';
import type { Provenance } from '../provenance.ts';
import { png, type Colour } from './png.ts';

/** A singular vector of the feedback to a perturbation that all images share. */
interface CommonVector {
  readonly value: number;
  /** σ² in that of all. */
  readonly share: number;
  /** v, an image. */
  readonly input: readonly number[];
  /** Of u, the weights of the hidden unit that answers most, an image too, and its share of ‖u‖². */
  readonly unit: readonly number[];
  readonly unitShare: number;
  /** The two digits whose mean images differ most nearly as v, and the cosine of the angle between. */
  readonly pair: readonly [number, number];
  readonly cosine: number;
}

/** What was seen after some steps. */
export interface Moment {
  readonly steps: number;
  readonly testAccuracy: number;
  readonly common: readonly CommonVector[];
  /** By digit, of the feedback to a perturbation that its images share. */
  readonly digits: readonly { readonly value: number; readonly input: readonly number[] }[];
}

export interface FeedbackImageResults extends Provenance {
  readonly command: string;
  readonly dataSet: string;
  readonly widths: readonly number[];
  readonly batch: number;
  readonly probeSize: number;
  /** Pixels of an image's side. */
  readonly side: number;
  /** By digit, over the images whose policy is looked at. */
  readonly means: readonly (readonly number[])[];
  readonly moments: readonly Moment[];
}

export function renderFeedbackImages(results: FeedbackImageResults): string {
  const { command, machine, revision, engine, dataSet, widths, batch, probeSize, moments } = results;
  const rows = moments.flatMap(({ steps, testAccuracy, common }) =>
    common.map(({ value, share, unitShare, pair, cosine }, index) => [
      index === 0 ? `${String(steps)} steps, ${(100 * testAccuracy).toFixed(1)} %` : '',
      String(index + 1),
      value.toPrecision(3),
      `${(100 * share).toFixed(0)} %`,
      `${String(pair[0])} − ${String(pair[1])}`,
      cosine.toFixed(2),
      `${(100 * unitShare).toFixed(0)} %`,
    ]),
  );
  const count = moments[0]?.common.length ?? 0;
  return `# The feedback policy, seen

Made by \`${command}\` at revision ${revision}; engine ${engine}; ${machine}.

DDPNOpt's policy of a layer is δu = k + K δx: K says how the layer's parameters answer when the layer's input moves by δx. Of the first
layer the input is the image itself, so that K's singular vectors can be looked at: the right one, v, is the image to whose
appearance the layer reacts most, its singular value σ is how strongly, and the left one, u, is the answer, a change of weights.

A dense net ${widths.join('-')} is trained on ${dataSet} through the service, in mode \`layers\`, with the defaults and batches of ${String(batch)}.
Before training, early, and later its policy for ${String(probeSize)} training images, as many of each digit, is looked at. K itself would have
${grouped((widths[0] ?? 0) + 1)} × ${grouped(widths[1] ?? 0)} rows and is not formed: the service hands out metric-weighted inputs ã, output gradients g̃ and the Cholesky factor of S, and
with G the images' loss gradients in the pixels, K = −J̃ᵀ S⁻¹ G, J̃'s rows being ã_i ⊗ g̃_i, has its singular vectors in the span of G's rows. They follow
from matrices of ${String(probeSize)} × ${String(probeSize)}; [singular-vectors.ts](../../bench/feedback-images/singular-vectors.ts) derives it, and a test compares it with the dense K of a small net.

![Singular vectors of the first layer's feedback](feedback-images.svg)

Red is positive, blue negative, white zero; each image has a scale of its own, and the sign of a pair is arbitrary. "The same on all images": one δx is added to
every image of the batch; the ${String(count)} leading right singular vectors, and below each the weights of the hidden unit that answers most. "On one digit":
δx is added to the images of that digit alone; the leading right singular vector, below the mean of these images.

The grain, at the borders above all, is the random initial weights': gradients in the pixels go through them, and where no image is ever lit they stay.

Of the vectors that all images share: σ, its square in the sum of all squares, the two digits, of all pairs, whose mean images differ most nearly in v's
direction with the cosine of the angle between, and the share of the unit shown in u. Before training v knows nothing of digits: its cosines are
what chance gives.

${markdownTable(['after, test accuracy', 'vector', 'σ', 'share', 'digits', 'cosine', 'unit'], rows)}
`;
}

function grouped(value: number): string {
  return value.toLocaleString('en');
}

const CELL = 76;
const IMAGE = 64;
const LEFT = 150;
const TOP = 44;

/** All images in one file, which needs no other. */
export function renderFigure({ moments, means, side }: FeedbackImageResults): string {
  const parts: string[] = [];
  let y = TOP;
  const label = (content: string, x: number, height: number, more = ''): void => {
    parts.push(`<text x="${String(x)}" y="${String(height)}"${more}>${content}</text>`);
  };
  const row = (title: readonly string[], images: readonly (readonly number[])[], captions: readonly string[]): void => {
    for (const [index, line] of title.entries()) label(line, 12, y + 28 + 16 * index);
    for (const [index, image] of images.entries()) {
      const x = LEFT + CELL * index;
      parts.push(
        `<image x="${String(x)}" y="${String(y)}" width="${String(IMAGE)}" height="${String(IMAGE)}" style="image-rendering:pixelated" href="${dataUrl(image, side)}"/>`,
      );
      const caption = captions[index];
      if (caption !== undefined) label(caption, x + IMAGE / 2, y + IMAGE + 13, ' text-anchor="middle" font-size="11"');
    }
    y += IMAGE + (captions.length > 0 ? 22 : 8);
  };
  const heading = (content: string): void => {
    label(content, 12, y + 14, ' font-weight="600"');
    y += 26;
  };
  heading('The same on all images');
  for (const { steps, common } of moments) {
    const values = common.map(({ value }) => `σ ${value.toPrecision(3)}`);
    row([`after ${String(steps)} steps`, 'v'], common.map(({ input }) => input), values); // prettier-ignore
    row(['u, one unit'], common.map(({ unit }) => unit), []); // prettier-ignore
  }
  y += 10;
  heading('On one digit');
  row(['mean image'], means, []);
  for (const { steps, digits } of moments) {
    const values = digits.map(({ value }) => `σ ${value.toPrecision(3)}`);
    row([`after ${String(steps)} steps`, 'v'], digits.map(({ input }) => input), values); // prettier-ignore
  }
  const width = LEFT + CELL * means.length + 12;
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${String(width)} ${String(y + 8)}" role="img" font-family="system-ui, sans-serif" font-size="12" fill="#333333">`,
    "<title>Singular vectors of the first layer's feedback</title>",
    `<rect width="${String(width)}" height="${String(y + 8)}" fill="#ffffff"/>`,
    `<text x="12" y="24" font-size="15" font-weight="600">What the first layer's feedback reacts to</text>`,
    ...parts,
    '</svg>',
  ].join('\n')}\n`;
}

const RED: Colour = [178, 24, 43];
const BLUE: Colour = [33, 102, 172];

/** Red for positive values, blue for negative ones, white for 0. */
function dataUrl(values: readonly number[], side: number): string {
  const largest = Math.max(...values.map(Math.abs), Number.MIN_VALUE);
  const pixels = values.map((value): Colour => {
    const share = Math.abs(value) / largest;
    const end = value > 0 ? RED : BLUE;
    const mixed = (channel: 0 | 1 | 2): number => Math.round(255 + share * (end[channel] - 255));
    return [mixed(0), mixed(1), mixed(2)];
  });
  return `data:image/png;base64,${png(side, side, pixels).toString('base64')}`;
}
