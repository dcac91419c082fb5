/** Of the results of other benches, what the paper's claims need: the form of their stored JSON. */

/** Of bench/vanishing-gradients. */
export interface VanishingGradients {
  readonly contenders: readonly { readonly id: string; readonly name: string }[];
  readonly cells: readonly {
    readonly dataSet: string;
    readonly loss: string;
    /** Hidden layers. */
    readonly depth: number;
    /** A contender's id. */
    readonly contender: string;
    /** A seed each; null where the training diverged. */
    readonly test: readonly ({ readonly accuracy: number } | null)[];
  }[];
}

/** Of bench/time-memory. */
export interface TimeMemory {
  readonly time: Readonly<
    Record<
      string,
      {
        readonly points: readonly {
          readonly x: number;
          readonly timings: readonly { readonly name: string; readonly milliseconds: number }[];
        }[];
      }
    >
  >;
}

/** Mean accuracy from which a net of ten classes counts as trained, as on the page of the gradients. */
const TRAINED = 0.8;
const GUESS = 0.1;

export interface Depths {
  readonly task: string;
  readonly loss: string;
  /** The deepest net that each contender trains, 0 for none, by its name. */
  readonly paper: number;
  readonly ours: number;
  readonly baselines: readonly { readonly name: string; readonly depth: number }[];
}

const BASELINES = ['sgd', 'adam', 'kfac'];
/** Both readings of the paper's recursion. */
const PAPER = ['paper-faithful', 'paper-averaged'];

export function deepest({ contenders, cells }: VanishingGradients): Depths[] {
  const groups = Map.groupBy(cells, ({ dataSet, loss }) => `${dataSet}, ${loss}`);
  return [...groups].map(([task, own]) => {
    const depthOf = (id: string): number => {
      const trained = own.filter(({ contender, test }) => {
        const accuracies = test.map((score) => score?.accuracy ?? GUESS);
        return contender === id && accuracies.reduce((sum, value) => sum + value, 0) / accuracies.length >= TRAINED;
      });
      return Math.max(0, ...trained.map(({ depth }) => depth));
    };
    const baselines = contenders
      .filter(({ id }) => BASELINES.includes(id))
      .map(({ id, name }) => ({ name, depth: depthOf(id) }));
    return {
      task,
      loss: own[0]?.loss ?? '',
      paper: Math.max(...PAPER.map(depthOf)),
      ours: depthOf('feedback'),
      baselines,
    };
  });
}

export interface Cost {
  readonly part: string;
  readonly x: number;
  readonly name: string;
  /** Times as long as DDPNOpt's step in PyTorch, too. */
  readonly ratio: number;
}

/** What a step of the other methods of optimal control takes, at the largest point that they have. */
export function costs({ time }: TimeMemory): Cost[] {
  return Object.entries(time).flatMap(([part, { points }]) =>
    ['vanilla DDP', 'E-MSA'].flatMap((name): Cost[] => {
      const measured = points.flatMap(({ x, timings }) => {
        const of = (which: string): number | undefined => timings.find((each) => each.name === which)?.milliseconds;
        const [own, other] = [of('DDPNOpt'), of(name)];
        return own === undefined || other === undefined ? [] : [{ part, x, name, ratio: other / own }];
      });
      return measured.toSorted((a, b) => b.x - a.x).slice(0, 1);
    }),
  );
}
