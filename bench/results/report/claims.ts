/** The claims of the paper, each with what the results say to it: a pure function of their stored JSON. */
import { markdownTable } from '../../markdown.ts';
import type { ResultsHeader } from '../item.ts';
import type { AblationResults } from '../items/ablation.ts';
import type { AccuracyResults, OptimizerAccuracy, TaskAccuracy } from '../items/accuracy.ts';
import type { FeedbackResults } from '../items/feedback.ts';
import { goodRange, POINT, type SensitivityResults, type TaskSensitivity } from '../items/sensitivity.ts';
import type { UntunedResults } from '../items/untuned.ts';
import { mean, pairedDifference, sign, type Interval } from '../statistics.ts';
import { tally } from './feedback.ts';
import { costs, deepest, type TimeMemory, type VanishingGradients } from './neighbours.ts';
import { percent, points } from './page.ts';
import { widthOf } from './sensitivity.ts';
import { comparisons } from './untuned.ts';

/** What there is; the claims that lack theirs are not tested. */
export interface StoredResults {
  readonly accuracy?: ResultsHeader & AccuracyResults;
  readonly sensitivity?: ResultsHeader & SensitivityResults;
  readonly feedback?: ResultsHeader & FeedbackResults;
  readonly ablation?: ResultsHeader & AblationResults;
  readonly untuned?: ResultsHeader & UntunedResults;
  readonly 'vanishing-gradients'?: VanishingGradients;
  readonly 'time-memory'?: TimeMemory;
}

type Verdict =
  'reproduced' | 'partly reproduced' | 'undecided' | 'not reproduced' | 'not tested here' | 'not testable here';

interface Claim {
  readonly claim: string;
  readonly verdict: Verdict;
  /** What is compared. */
  readonly measure: string;
  /** The comparisons, with their numbers. */
  readonly evidence: readonly string[];
  /** With more about it. */
  readonly page: string | null;
  readonly figures: readonly string[];
}

const PAPER_METRICS = ['identity', 'rmsprop', 'kronecker'];
/** The paper's forms, each with the optimizer that it adds feedback to: the same metric, options and grid without it. */
const PAPER_FORMS = PAPER_METRICS.flatMap((metric) =>
  ['paper', 'paper-averaged'].map((reading) => [`${reading}-${metric}`, `paper-plain-${metric}`] as const),
);
/** What the paper compares accuracies with, beside methods of optimal control. */
const PAPER_BASELINES = ['sgd', 'rmsprop', 'adam', 'ekfac'];
const CONTROL_METHODS = ['e-msa', 'vanilla-ddp'];
/** Accuracy by which a method may be behind and still be called competitive. */
const COMPETITIVE = 0.01;

/** Of judgements for the claim (1), against it (−1) and neither (0). */
function verdictOf(signs: readonly (-1 | 0 | 1)[]): Verdict {
  if (signs.length === 0) return 'not tested here';
  if (signs.every((each) => each === 1)) return 'reproduced';
  if (signs.some((each) => each === 1)) return 'partly reproduced';
  return 'not reproduced';
}

/** The same where what is neither better nor worse bears the claim out in part. */
function verdictWithTies(signs: readonly (-1 | 0 | 1)[]): Verdict {
  const verdict = verdictOf(signs);
  return verdict === 'not reproduced' && signs.includes(0) ? 'partly reproduced' : verdict;
}

function untested(claim: string): Claim {
  const measure = 'Its trials have not been run here.';
  return { claim, verdict: 'not tested here', measure, evidence: [], page: null, figures: [] };
}

function optimizerOf({ optimizers }: TaskAccuracy, id: string): OptimizerAccuracy | undefined {
  return optimizers.find((optimizer) => optimizer.id === id);
}

/** The best on the validation part: the test part has no say in which of several is compared. */
function bestOf(task: TaskAccuracy, ids: readonly string[]): OptimizerAccuracy | undefined {
  const known = ids.flatMap((id) => optimizerOf(task, id) ?? []);
  return known.toSorted((a, b) => (b.validation ?? 0) - (a.validation ?? 0))[0];
}

const PAPER_IDS = PAPER_FORMS.map(([id]) => id);

function againstControl({ accuracy }: StoredResults): Claim {
  const claim = 'It outperforms other methods of optimal control, E-MSA and vanilla DDP, in accuracy.';
  const compared = (accuracy?.tasks ?? []).flatMap((task) => {
    const paper = bestOf(task, PAPER_IDS);
    return CONTROL_METHODS.flatMap((id) => {
      const other = optimizerOf(task, id);
      return paper === undefined || other === undefined ? [] : [compare(task.id, paper, other)];
    });
  });
  if (compared.length === 0) return untested(claim);
  return {
    claim,
    verdict: verdictOf(compared.map(({ difference }) => sign(difference))),
    measure: "Accuracy of the best of the paper's forms on the validation part less that of the other, in points",
    evidence: compared.map(({ text }) => text),
    page: 'accuracy.md',
    figures: [],
  };
}

interface Compared {
  readonly text: string;
  readonly difference: Interval;
  /** Whether the one diverged on a seed on which the other did not. */
  readonly divergesAlone: boolean;
}

interface Runs {
  readonly name: string;
  /** A seed each; 0 where the training diverged. */
  readonly accuracies: readonly number[];
}

/** The accuracy of one optimizer less that of another, on the seeds on which neither diverged. */
function compare(task: string, one: Runs, other: Runs): Compared {
  // Slow ones have fewer seeds, the first ones.
  const all = one.accuracies
    .slice(0, other.accuracies.length)
    .map((a, seed) => [a, other.accuracies[seed] ?? 0] as const);
  const pairs = all.filter(([a, b]) => a !== 0 && b !== 0);
  const difference = pairedDifference(pairs.map(([a]) => a), pairs.map(([, b]) => b)); // prettier-ignore
  const lost = [one, other].flatMap(({ name }, which) => {
    const diverged = all.filter((pair) => pair[which] === 0).length;
    return diverged === 0 ? [] : [`${name} diverged on ${String(diverged)} of ${String(all.length)} seeds`];
  });
  const note = lost.length === 0 ? '' : ` (left out: ${lost.join('; ')})`;
  const divergesAlone = all.some(([a, b]) => a === 0 && b !== 0);
  return { difference, divergesAlone, text: `${task}, ${one.name} − ${other.name} ${points(difference)}${note}` };
}

/**
 * Whether an accuracy is at most so much behind that it counts as competitive: 1 or −1 where the interval tells, else 0. Who diverges
 * where the other does not is not competitive.
 */
function competitiveSign({ difference: { mean: centre, half }, divergesAlone }: Compared): -1 | 0 | 1 {
  if (divergesAlone) return -1;
  if (centre - half >= -COMPETITIVE) return 1;
  return centre + half < -COMPETITIVE ? -1 : 0;
}

type TaskFilter = (task: TaskAccuracy) => boolean;

const isDense: TaskFilter = ({ isConvolutional }) => !isConvolutional;
const isConvolutional: TaskFilter = (task) => task.isConvolutional;

function competitive({ accuracy }: StoredResults, ids: readonly string[], isOf: TaskFilter, claim: string): Claim {
  const tasks = (accuracy?.tasks ?? []).filter(isOf);
  const compared = tasks.flatMap((task) => {
    const own = bestOf(task, ids);
    const other = bestOf(task, PAPER_BASELINES);
    return own === undefined || other === undefined ? [] : [compare(task.id, own, other)];
  });
  if (compared.length === 0) return untested(claim);
  const signs = compared.map(competitiveSign);
  const isOpen = signs.every((each) => each === 0);
  return {
    claim,
    verdict: isOpen ? 'undecided' : verdictOf(signs),
    measure: 'Accuracy less that of the best of SGD, RMSprop, Adam and EKFAC on the validation part, in points',
    evidence: compared.map(({ text }) => text),
    page: 'accuracy.md',
    figures: tasks.map(({ id }) => `accuracy-${id}-loss.svg`),
  };
}

/** Of the paper's data sets the one that no package brings. */
function onSvhn(stored: StoredResults): Claim {
  const claim =
    'It is competitive with first- and second-order methods in accuracy on SVHN, in the best of all its forms.';
  const tested = competitive(stored, [...PAPER_IDS, 'ddpnopt'], ({ id }) => id === 'svhn-cnn', claim);
  if (tested.verdict !== 'not tested here') return tested;
  return {
    ...tested,
    verdict: 'not testable here',
    measure:
      'Nothing that `npm run bench:data` takes its files from has its images. `npm run bench:results -- --only accuracy:svhn-cnn` takes them from a folder that `DDPNOPT_SVHN` names.',
  };
}

function addedFeedback({ accuracy }: StoredResults): Claim {
  const claim = 'Feedback improves on the optimizer that it is added to, with the same curvature, in accuracy.';
  const compared = (accuracy?.tasks ?? []).flatMap((task) =>
    PAPER_FORMS.flatMap(([id, base]) => {
      const [paper, other] = [optimizerOf(task, id), optimizerOf(task, base)];
      return paper === undefined || other === undefined ? [] : [compare(task.id, paper, other)];
    }),
  );
  if (compared.length === 0) return untested(claim);
  return {
    claim,
    verdict: verdictOf(compared.map(({ difference }) => sign(difference))),
    measure:
      "Accuracy of the paper's form less that of the same form without feedback, a preconditioned gradient step, each tuned, in points",
    evidence: compared.map(({ text }) => text),
    page: 'accuracy.md',
    figures: [],
  };
}

function width({ maps }: TaskSensitivity, id: string): { readonly decades: number; readonly text: string } | null {
  const map = maps.find((each) => each.id === id);
  if (map === undefined) return null;
  const range = goodRange(map, POINT);
  return { decades: range.decades, text: widthOf(range) };
}

function widths({ sensitivity }: StoredResults, pairs: readonly (readonly [string, string])[], claim: string): Claim {
  const compared = (sensitivity?.tasks ?? []).flatMap((task) =>
    pairs.flatMap(([one, other]) => {
      const [a, b] = [width(task, one), width(task, other)];
      if (a === null || b === null) return [];
      const difference = Math.sign(a.decades - b.decades) as -1 | 0 | 1;
      return [{ difference, text: `${task.id}, ${one} ${a.text} to ${other} ${b.text}` }];
    }),
  );
  if (compared.length === 0) return untested(claim);
  return {
    claim,
    verdict: verdictOf(compared.map(({ difference }) => difference)),
    measure: 'Decades of η within a point of the best accuracy',
    evidence: compared.map(({ text }) => text),
    page: 'sensitivity.md',
    figures: (sensitivity?.tasks ?? []).map(({ id }) => `sensitivity-${id}.svg`),
  };
}

/** Accuracies at the same setting, with feedback and without. */
interface Cell {
  readonly learningRate: number;
  readonly difference: number;
}

function cellsOf({ maps }: TaskSensitivity, id: string, base: string): Cell[] {
  const [map, other] = [id, base].map((each) => maps.find((known) => known.id === each));
  if (map === undefined || other === undefined) return [];
  return map.accuracies.flatMap((row, y) =>
    row.map((accuracy, x) => ({
      learningRate: map.learningRates[x] ?? 0,
      difference: accuracy - (other.accuracies[y]?.[x] ?? 0),
    })),
  );
}

/** The learning rate of the best cell of a map, the smallest of several. */
function bestRate({ maps }: TaskSensitivity, id: string): number {
  const map = maps.find((known) => known.id === id);
  if (map === undefined) return 0;
  const best = Math.max(...map.accuracies.flat());
  return Math.min(...map.accuracies.flatMap((row) => row.flatMap((value, x) => (value === best ? (map.learningRates[x] ?? 0) : [])))); // prettier-ignore
}

/** What the paper's heat maps show: feedback added at the same settings, below and above the learning rate that is best without it. */
function sameSettings({ sensitivity }: StoredResults): Claim {
  const claim =
    'At the same learning rate and weight decay feedback improves accuracy, the more the larger the learning rate.';
  const compared = (sensitivity?.tasks ?? []).flatMap((task) =>
    PAPER_FORMS.flatMap(([id, base]) => {
      const cells = cellsOf(task, id, base);
      if (cells.length === 0) return [];
      const best = bestRate(task, base);
      const [small, large] = [
        cells.filter(({ learningRate }) => learningRate <= best),
        cells.filter(({ learningRate }) => learningRate > best),
      ];
      const better = cells.filter(({ difference }) => difference > POINT).length;
      const worse = cells.filter(({ difference }) => difference < -POINT).length;
      const average = (some: readonly Cell[]): number => mean(some.map(({ difference }) => difference));
      const text =
        `${task.id}, ${id}: of ${String(cells.length)} settings better in ${String(better)}, worse in ${String(worse)}; ` +
        `on average ${signedPoints(average(small))} up to the η that is best without feedback, ${signedPoints(average(large))} above it`;
      const isMore = better > worse && average(large) > average(small);
      return [{ sign: isMore ? (worse === 0 ? 1 : 0) : -1, text } as const];
    }),
  );
  if (compared.length === 0) return untested(claim);
  const signs = compared.map(({ sign }) => sign);
  return {
    claim,
    verdict: verdictWithTies(signs),
    measure:
      'Accuracy with feedback less that without, setting by setting, in points; better and worse by more than one point',
    evidence: compared.map(({ text }) => text),
    page: 'sensitivity.md',
    figures: (sensitivity?.tasks ?? []).map(({ id }) => `sensitivity-${id}.svg`),
  };
}

function signedPoints(difference: number): string {
  return `${difference < 0 ? '' : '+'}${percent(difference)}`;
}

function againstCoupling({ feedback }: StoredResults): Claim[] {
  const claims = {
    layerwise:
      'Coupling and feedback together improve accuracy over updates layer by layer, at the same learning rate.',
    'gauss-newton-step': 'The second forward pass, feedback itself, improves accuracy beyond what coupling does.',
  } as const;
  return (['layerwise', 'gauss-newton-step'] as const).map((other): Claim => {
    const claim = claims[other];
    if (feedback === undefined) return untested(claim);
    const { better, worse, undecided } = tally(feedback.regimes, other);
    const all = feedback.regimes.length;
    // By chance alone one interval in forty would be on the claim's side.
    const isMore = better > worse && better > Math.ceil(all / 40);
    const verdict: Verdict = !isMore ? 'not reproduced' : better === all ? 'reproduced' : 'partly reproduced';
    const evidence = [
      `of ${String(all)} regimes better in ${String(better)}, worse in ${String(worse)}, not told apart in ${String(undecided)}`,
    ];
    const measure = `Accuracy with \`feedback\` less that with \`${other}\`, in regimes of depth, activation, η and batch`;
    return { claim, verdict, measure, evidence, page: 'feedback.md', figures: [] };
  });
}

function defaults({ untuned }: StoredResults): Claim {
  const claim = 'Not of the paper: the defaults, untuned, come to the best accuracy of each tuned baseline.';
  const reached = (untuned?.tasks ?? []).map((task) => {
    const all = comparisons(task);
    const better = all.filter((each) => each.defaults !== null);
    const fewer = better.filter((each) => each.own !== null && each.defaults !== null && each.defaults <= each.own);
    return { task, all: all.length, better: better.length, fewer: fewer.length };
  });
  if (reached.length === 0) return untested(claim);
  const signs = reached.map(({ all, better }) => (better === all ? 1 : better > 0 ? 0 : -1));
  const texts = reached.map(
    ({ task, all, better, fewer }) =>
      `${task.id}: the best of ${String(better)} of ${String(all)} baselines, of ${String(fewer)} in no more steps than theirs`,
  );
  return {
    claim,
    verdict: verdictWithTies(signs),
    measure:
      'Of how many baselines the defaults reach the best mean accuracy, in as many steps as the baseline is given',
    evidence: texts,
    page: 'untuned.md',
    figures: reached.map(({ task }) => `untuned-${task.id}-seconds.svg`),
  };
}

function paperRecursion({ ablation }: StoredResults): Claim {
  const claim =
    'Not of the paper: the batch-exact form is better than the paper’s recursion in either reading, at the best η of each.';
  if (ablation === undefined) return untested(claim);
  const metrics = [...new Set(ablation.rows.map(({ metric }) => metric))];
  const compared = metrics.flatMap((metric) => {
    const rows = ablation.rows.filter((row) => row.metric === metric && row.coupling === 'feedback');
    return rows
      .filter(({ batchCoupling }) => batchCoupling.startsWith('paper'))
      .flatMap((paper) => {
        const exact = rows.find((row) => row.batchCoupling === 'full' && row.curvature === paper.curvature);
        if (exact === undefined) return [];
        return [compare(metric, { name: 'full', ...exact }, { name: paper.batchCoupling, ...paper })];
      });
  });
  if (compared.length === 0) return untested(claim);
  return {
    claim,
    verdict: verdictOf(compared.map(({ difference }) => sign(difference))),
    measure: "Accuracy of the exact form less that of the paper's, with feedback and the same curvature, in points",
    evidence: compared.map(({ text }) => text),
    page: 'ablation.md',
    figures: [],
  };
}

/** @param losses of those tried that the claim is about; all unless given */
function vanishing(stored: StoredResults, which: 'paper' | 'ours', claim: string, losses?: readonly string[]): Claim {
  const results = stored['vanishing-gradients'];
  if (results === undefined) return untested(claim);
  const compared = deepest(results).filter(({ loss }) => losses?.includes(loss) ?? true);
  const signs = compared.map((depths) => {
    const other = Math.max(...depths.baselines.map(({ depth }) => depth));
    return Math.sign(depths[which] - other) as -1 | 0 | 1;
  });
  return {
    claim,
    verdict: verdictOf(signs),
    measure: 'Hidden layers of the deepest sigmoid net that is trained, of those tried',
    evidence: compared.map((depths) => {
      const others = depths.baselines.map(({ name, depth }) => `${name} ${String(depth)}`);
      return `${depths.task}: ${String(depths[which])}; ${others.join(', ')}`;
    }),
    page: 'vanishing-gradients.md',
    figures: [],
  };
}

function cheaper(stored: StoredResults): Claim {
  const claim = 'Its steps take less time than those of other methods of optimal control.';
  const results = stored['time-memory'];
  const compared = results === undefined ? [] : costs(results);
  if (compared.length === 0) return untested(claim);
  return {
    claim,
    verdict: verdictOf(compared.map(({ ratio }) => (ratio > 1 ? 1 : -1))),
    measure: 'Time of a step, in steps of DDPNOpt, all in PyTorch, at the largest point of each that was measured',
    evidence: compared.map(({ part, x, name, ratio }) => `${part} ${String(x)}, ${name}: ${ratio.toPrecision(2)}`),
    page: 'time-memory.md',
    figures: [],
  };
}

function claimsOf(stored: StoredResults): Claim[] {
  return [
    againstControl(stored),
    competitive(
      stored,
      PAPER_IDS,
      isDense,
      'It is competitive with first- and second-order methods in accuracy on dense nets: the paper’s recursion.',
    ),
    competitive(stored, ['ddpnopt'], isDense, 'The same, of the service’s batch-exact form.'),
    addedFeedback(stored),
    sameSettings(stored),
    widths(stored, PAPER_FORMS, 'Feedback makes training less sensitive to the learning rate: the paper’s recursion.'),
    widths(
      stored,
      [['ddpnopt', 'ddpnopt-layerwise'], ...PAPER_BASELINES.map((id) => ['ddpnopt', id] as const)],
      'The same, of the service’s batch-exact form, coupled against layer by layer and against the baselines.',
    ),
    ...againstCoupling(stored),
    vanishing(
      stored,
      'paper',
      'With the max-Mahalanobis-centre loss it trains deep sigmoid nets whose gradients vanish: the paper’s recursion.',
      ['max-mahalanobis-centre'],
    ),
    vanishing(stored, 'ours', 'The same, of the service’s batch-exact form, and with cross-entropy too.'),
    cheaper(stored),
    paperRecursion(stored),
    defaults(stored),
    competitive(
      stored,
      PAPER_IDS,
      isConvolutional,
      'It is competitive with first- and second-order methods in accuracy on convolutional nets: the paper’s recursion.',
    ),
    competitive(stored, ['ddpnopt'], isConvolutional, 'The same, of the service’s batch-exact form.'),
    onSvhn(stored),
  ];
}

export function renderClaims(stored: StoredResults): string {
  const claims = claimsOf(stored);
  const rows = claims.map(({ claim, verdict }, index) => [
    `${String(index + 1)}. ${claim}`,
    ['not tested here', 'not testable here'].includes(verdict) ? verdict : `**${verdict}**`,
  ]);
  const tasks = (stored.accuracy?.tasks ?? []).map((task) => {
    const best = task.optimizers.toSorted((a, b) => mean(b.accuracies) - mean(a.accuracies))[0];
    return [task.id, best?.name ?? '', best === undefined ? '' : percent(mean(best.accuracies))];
  });
  return `# What of the paper's claims holds

Written by \`npm run bench:results\` from the results beside it; \`npm run bench:results -- --list\` says what there is to run, and what has been.

Liu, Chen and Theodorou, [DDPNOpt: Differential Dynamic Programming Neural Optimizer](https://arxiv.org/abs/2002.08809) (ICLR 2021), claim much of their
optimizer; each claim is held here to experiments of our own, on small nets and short budgets. [Below](#what-is-the-papers-and-what-is-not) it says what of the
paper's was taken and what not. A claim counts as _reproduced_
where every comparison bears it out, as _partly reproduced_ where some do, and else as _not reproduced_. A difference in accuracy counts where
the 95 % confidence interval of the mean of the paired differences, seed by seed, excludes 0; it is bold then. Seeds on which one of the two
diverged are left out, and named. Competitive means not more than ${String(100 * COMPETITIVE)} point of accuracy behind, with all of the interval, and not diverging
where the other does not; where no interval tells, the claim is _undecided_. A difference in width or depth counts as it is, without an interval. The paper's nets, seeds and budgets are its own:
that a claim is not reproduced here says that it did not show in these experiments, no more.

${markdownTable(['claim', 'here'], rows)}
${claims.map(renderClaim).join('')}
## What is the paper's, and what is not

The recursion was written from the text of the paper, without the authors' code. Taken from it:

- algorithm 3, sample by sample, with the outer-product factorisation and V_xx = ∂φ ∂φᵀ at the last layer: the forms called "(paper)";
- the control metrics I, diag √E[Q_u ⊙ Q_u] and E[x xᵀ] ⊗ E[V_h V_hᵀ], made in the backward pass from Q_u and V_h, not from the loss gradients;
- weight decay as the running cost, so that it is part of Q_u; five dense layers 10 to 32 wide, tanh, batches of 8 to 32, the vanishing-gradient test with its loss.

What the text leaves open or we could not find, and what was done:

- where 1 − q_uᵀ R⁻¹ q_u is negative the factorisation has no real root, and at learning rates that suit the metric alone it often is: the sample then counts no
  more for the layers before. The forms "(paper, averaged)" divide by the batch in that root, and take the batch's mean Q_u in V_x, as a control that the batch shares suggests:
  another reading, and a rule of our own;
- E[Q_u ⊙ Q_u] is taken over the samples of the batch, then averaged over steps with a decay of 0.99, ε = 1e-8. With the square of the batch's mean gradient in its place, PyTorch's
  RMSprop, the feedback diverges: where the samples of a coordinate cancel its denominator is tiny and the feedback's numerator is not;
- damping, averages and refreshes of the Kronecker factors are the service's defaults; the learning-rate grids, budgets and seeds are ours;
- not done: V_xx + ε I, which is optional there; second-order dynamics, with which the paper says that its effect on vanishing gradients "becomes significant"; the
  exact Hessian of the loss in place of the outer product; a tuned momentum for SGD, which has 0.9 here.

## The best of each table of accuracies

${markdownTable(['task', 'best optimizer', 'mean test accuracy, %'], tasks)}

Beside these: [the feedback policy as images](feedback-images.md), and [what a given accuracy costs in seconds](training-time.md) on larger nets.
`;
}

function renderClaim({ claim, verdict, measure, evidence, page, figures }: Claim, index: number): string {
  const list = evidence.map((text) => `- ${text}`).join('\n');
  const drawn = figures.map((figure) => `![${figure.replace('.svg', '').replaceAll('-', ' ')}](${figure})`).join('\n');
  const parts = [
    `## ${String(index + 1)}. ${claim}`,
    `**${verdict.slice(0, 1).toUpperCase()}${verdict.slice(1)}.** ${measure}${evidence.length === 0 ? '' : ':'}`,
    list,
    page === null ? '' : `More: [${page}](${page}).`,
    drawn,
  ];
  return `\n${parts.filter((part) => part !== '').join('\n\n')}\n`;
}
