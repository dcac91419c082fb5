/** ddpnopt bench: what a step takes at an endpoint, with random numbers in the sizes of a stated model and batch. */
import { parameterCount } from '../../shared/cost.ts';
import { modelStages } from '../../shared/model.ts';
import { seededRandom } from '../../shared/random.ts';
import type { Session, SessionDefinitionInput } from '../../shared/session.ts';
import type { DdpnoptClient } from '../js/client.ts';
import type { StepRecord } from '../js/metrics-history.ts';
import { byteSize, parsedFile, wholeNumberOf } from './arguments.ts';
import { textOf, UsageError, type CommandContext, type ServiceCommand } from './command.ts';
import { randomHostedBatch, randomKernelBatch, randomLayersBatch } from './random-batch.ts';
import { table } from './table.ts';

const DEFAULTS = { widths: '784,256,256,10', batch: 128, steps: 100, warmUp: 5, sessions: 1, positions: 1 } as const;
const MODES = ['layers', 'kernel', 'hosted'] as const;
/** Steps that one set of sessions takes before it is the other's turn. */
const ROUND = 10;
/** In mode `kernel` with factors: every so many steps carry their statistics. */
const STATISTICS_EVERY = 10;
/** Small, so that no run of random numbers diverges; a step costs the same with any. */
const LEARNING_RATE = { kind: 'constant', value: 1e-3 } as const;
/**
 * The step that is nearest to a plain gradient step: P = I, every layer and sample by itself, one forward and one backward pass. For
 * η → 0 it is −(η/B) Jᵀ1.
 */
const GRADIENT_STEP = {
  learningRate: LEARNING_RATE,
  metric: { kind: 'identity' },
  coupling: 'layerwise',
  batchCoupling: 'diagonal',
} as const;

/** Over the measured steps, in milliseconds from the request to the reply's last byte. */
interface Latencies {
  readonly p50: number;
  readonly p99: number;
  readonly mean: number;
  readonly maximum: number;
}

interface Measurement {
  readonly milliseconds: Latencies;
  /** Of all sessions together. */
  readonly stepsPerSecond: number;
  /** Means. */
  readonly bytesSentPerStep: number;
  readonly bytesReceivedPerStep: number;
}

/** A session that takes steps with a batch of its own. */
interface SteppingSession {
  readonly session: Session;
  readonly step: (signal: AbortSignal) => Promise<StepRecord>;
  readonly delete: () => Promise<void>;
}

/** Sessions of one definition, and what their steps took. */
class Contender {
  readonly #sessions: readonly SteppingSession[];
  readonly #records: StepRecord[] = [];
  #milliseconds = 0;

  constructor(sessions: readonly SteppingSession[]) {
    this.#sessions = sessions;
  }

  /** All sessions at a time, the steps of each one after the other. */
  async take(steps: number, signal: AbortSignal): Promise<void> {
    const began = performance.now();
    const taken = await Promise.all(
      this.#sessions.map(async ({ step }) => {
        const records: StepRecord[] = [];
        while (records.length < steps) records.push(await step(signal));
        return records;
      }),
    );
    this.#milliseconds += performance.now() - began;
    this.#records.push(...taken.flat());
  }

  /** Forgets what the steps have taken so far. */
  reset(): void {
    this.#records.length = 0;
    this.#milliseconds = 0;
  }

  measurement(): Measurement {
    const times = this.#records.map(({ milliseconds }) => milliseconds).toSorted((a, b) => a - b);
    return {
      milliseconds: {
        p50: quantile(times, 0.5),
        p99: quantile(times, 0.99),
        mean: mean(times),
        maximum: quantile(times, 1),
      },
      stepsPerSecond: (1000 * times.length) / this.#milliseconds,
      bytesSentPerStep: mean(this.#records.map(({ bytesSent }) => bytesSent)),
      bytesReceivedPerStep: mean(this.#records.map(({ bytesReceived }) => bytesReceived)),
    };
  }
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The smallest of the sorted values that a share of them does not exceed. */
function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** A perceptron with relu between its dense layers. */
function perceptron(mode: (typeof MODES)[number], widths: readonly number[]): SessionDefinitionInput {
  const layers = widths
    .slice(1)
    .map((outputs, t) => ({ name: `dense${String(t + 1)}`, inputs: widths[t] ?? 0, outputs }));
  const optimizer = { learningRate: LEARNING_RATE };
  switch (mode) {
    case 'layers':
      return { mode, optimizer, layers: layers.map((layer) => ({ kind: 'dense' as const, ...layer })) };
    case 'kernel':
      return {
        mode,
        optimizer: { ...optimizer, metric: { kind: 'kronecker' } },
        layers: layers.map(({ name, inputs, outputs }) => ({ name, factors: { inputs: inputs + 1, outputs } })),
      };
    case 'hosted': {
      const stacked = layers.flatMap(({ name, outputs }, t) => [
        ...(t === 0 ? [] : [{ kind: 'relu' as const }]),
        { kind: 'dense' as const, name, outputs },
      ]);
      return {
        mode,
        optimizer,
        model: { input: [widths[0] ?? 0], layers: stacked },
        loss: { kind: 'softmax-cross-entropy' },
      };
    }
  }
}

async function definitionOf(context: CommandContext): Promise<SessionDefinitionInput> {
  const file = textOf(context, 'session');
  const [mode, widths] = [textOf(context, 'mode'), textOf(context, 'widths')];
  if (file !== undefined) {
    if (mode !== undefined || widths !== undefined)
      throw new UsageError('--session says mode and widths; leave them out');
    // What is wrong with it the service says.
    return (await parsedFile(file)) as SessionDefinitionInput;
  }
  const known = MODES.find((each) => each === (mode ?? 'layers'));
  if (known === undefined) throw new UsageError(`--mode is "${String(mode)}"; ${MODES.join(', ')} are the modes`);
  const sizes = (widths ?? DEFAULTS.widths).split(',').map(Number);
  if (sizes.length < 2 || !sizes.every((size) => Number.isInteger(size) && size > 0)) {
    throw new UsageError(`--widths is "${String(widths)}"; whole numbers as ${DEFAULTS.widths} were expected`);
  }
  return perceptron(known, sizes);
}

interface Sizes {
  readonly batch: number;
  readonly positions: number;
  readonly seed: number;
}

/** Creates a session of any mode, and the batch that it repeats. @throws DdpnoptError, ConnectionError */
async function open(client: DdpnoptClient, definition: SessionDefinitionInput, sizes: Sizes): Promise<SteppingSession> {
  const random = seededRandom(sizes.seed);
  switch (definition.mode) {
    case 'hosted': {
      const session = await client.createHostedSession(definition);
      const batch = randomHostedBatch(session.session, sizes.batch, random);
      return stepping(session, (signal) => session.step(batch, { signal }));
    }
    case 'kernel': {
      const session = await client.createKernelSession(definition);
      const [plain, withStatistics] = [false, true].map((has) =>
        randomKernelBatch(session.session, sizes.batch, has, random),
      );
      return stepping(session, async (signal) => {
        const batch = session.nextStep % STATISTICS_EVERY === 0 ? withStatistics : plain;
        if (batch !== undefined) await session.step(batch, { signal });
      });
    }
    case 'layers':
    case undefined: {
      const session = await client.createSession(definition);
      const batch = randomLayersBatch(session.session, sizes.batch, sizes.positions, random);
      return stepping(session, (signal) => session.step(batch, { signal }));
    }
  }
}

function stepping(
  session: {
    readonly session: Session;
    readonly history: { readonly records: readonly StepRecord[] };
    readonly delete: () => Promise<void>;
  },
  take: (signal: AbortSignal) => Promise<unknown>,
): SteppingSession {
  return {
    session: session.session,
    step: async (signal) => {
      await take(signal);
      const record = session.history.records.at(-1);
      if (record === undefined) throw new RangeError('a step left no record');
      return record;
    },
    delete: () => session.delete(),
  };
}

/** Null where the service does not know them. */
function parametersOf(session: Session): number | null {
  switch (session.mode) {
    case 'layers':
      return parameterCount(session.layers);
    case 'hosted':
      return parameterCount(modelStages(session.model).map(({ layer }) => layer));
    case 'kernel': {
      const sizes = session.layers.map(({ factors }) => (factors === null ? null : factors.inputs * factors.outputs));
      return sizes.reduce((sum, size) => (sum === null || size === null ? null : sum + size), 0);
    }
  }
}

function inWords(
  session: Session,
  { batch }: Sizes,
  sessions: number,
  steps: number,
  own: Measurement,
  gradient: Measurement | null,
): string {
  const parameters = parametersOf(session);
  const milliseconds = (value: number): string => `${value.toPrecision(3)} ms`;
  const row = (name: string, of: (measurement: Measurement) => string): string[] => [
    name,
    of(own),
    ...(gradient === null ? [] : [of(gradient)]),
  ];
  const share = (bytes: number): string =>
    parameters === null ? '' : ` (${(bytes / (4 * parameters)).toPrecision(2)} of the parameters’)`;
  const rows = [
    row('p50', (of) => milliseconds(of.milliseconds.p50)),
    row('p99', (of) => milliseconds(of.milliseconds.p99)),
    row('mean', (of) => milliseconds(of.milliseconds.mean)),
    row('steps per second', (of) => of.stepsPerSecond.toPrecision(3)),
    row('bytes sent', (of) => `${byteSize(of.bytesSentPerStep)}${share(of.bytesSentPerStep)}`),
    row('bytes received', (of) => `${byteSize(of.bytesReceivedPerStep)}${share(of.bytesReceivedPerStep)}`),
  ];
  const heading = [
    `mode ${session.mode}, batch ${String(batch)}`,
    ...(parameters === null ? [] : [`${String(parameters)} parameters`]),
    `engine ${session.engine}`,
    `${String(steps)} steps in ${sessions === 1 ? 'one session' : `each of ${String(sessions)} sessions at a time`}`,
  ];
  return [
    heading.join(', '),
    '',
    table(['OF A STEP', 'THIS SESSION', ...(gradient === null ? [] : ['GRADIENT STEP'])], rows),
    ...(gradient === null ? [] : ['', `ratio of the medians: ${ratioOf(own, gradient).toPrecision(3)}`]),
  ].join('\n');
}

const ratioOf = (own: Measurement, gradient: Measurement): number => own.milliseconds.p50 / gradient.milliseconds.p50;

export const benchCommand: ServiceCommand = {
  name: 'bench',
  summary:
    'Time steps of a model and a batch at an endpoint, with random numbers: milliseconds, bytes, steps per second',
  arguments: [],
  options: {
    mode: { type: 'string', value: 'MODE', description: 'layers, kernel or hosted; layers unless given' },
    widths: {
      type: 'string',
      value: 'N,N,…',
      description: `of a perceptron, its inputs first; ${DEFAULTS.widths} unless given`,
    },
    session: {
      type: 'string',
      value: 'FILE',
      description: 'a document that creates a session, in the place of mode and widths: any layers, any optimizer',
    },
    batch: { type: 'string', value: 'N', description: `samples of a step; ${String(DEFAULTS.batch)} unless given` },
    positions: {
      type: 'string',
      value: 'N',
      description: 'of layers over sequences and of embeddings in mode layers; 1 unless given',
    },
    steps: {
      type: 'string',
      value: 'N',
      description: `measured of each session; ${String(DEFAULTS.steps)} unless given`,
    },
    'warm-up': {
      type: 'string',
      value: 'N',
      description: `steps before those; ${String(DEFAULTS.warmUp)} unless given`,
    },
    sessions: { type: 'string', value: 'N', description: 'that take steps at the same time; 1 unless given' },
  },
  notes: [
    'The time of a step is from its request to its reply’s last byte, decoded; your own passes come on top in modes layers and kernel.',
    'In mode hosted, where the service does all of a step, the same model’s steps are timed in alternation with plain gradient',
    'steps: metric identity, coupling layerwise, batch coupling diagonal.',
  ],
  examples: [
    'ddpnopt bench',
    'ddpnopt bench --mode hosted --widths 64,32,32,10 --batch 64 --json',
    'ddpnopt bench --session session.json --batch 256 --sessions 4 --url https://ddpnopt.example.com',
  ],
  run: async (context) => {
    const { client, progress, signal } = context;
    const steps = wholeNumberOf(context, 'steps', DEFAULTS.steps);
    const warmUp = wholeNumberOf(context, 'warm-up', DEFAULTS.warmUp, 0);
    const count = wholeNumberOf(context, 'sessions', DEFAULTS.sessions);
    const sizes = {
      batch: wholeNumberOf(context, 'batch', DEFAULTS.batch),
      positions: wholeNumberOf(context, 'positions', DEFAULTS.positions),
      seed: 0,
    };
    const definition = await definitionOf(context);
    const opened: SteppingSession[] = [];
    const openAll = async (each: SessionDefinitionInput): Promise<Contender> => {
      const first = opened.length;
      for (let k = 0; k < count; k++) opened.push(await open(client, each, { ...sizes, seed: k }));
      return new Contender(opened.slice(first));
    };
    try {
      const own = await openAll(definition);
      const gradient = definition.mode === 'hosted' ? await openAll({ ...definition, optimizer: GRADIENT_STEP }) : null;
      const contenders = gradient === null ? [own] : [own, gradient];
      for (const contender of contenders) await contender.take(warmUp, signal);
      for (const contender of contenders) contender.reset();
      for (let done = 0; done < steps; done += ROUND) {
        for (const contender of contenders) await contender.take(Math.min(ROUND, steps - done), signal);
        const { p50 } = own.measurement().milliseconds;
        progress(`step ${String(Math.min(steps, done + ROUND))} of ${String(steps)}: median ${p50.toPrecision(3)} ms`);
      }
      const [first] = opened;
      if (first === undefined) throw new RangeError('no session was opened');
      const [measured, plain] = [own.measurement(), gradient?.measurement() ?? null];
      const document = {
        mode: first.session.mode,
        engine: first.session.engine,
        parameters: parametersOf(first.session),
        batch: sizes.batch,
        sessions: count,
        steps,
        warmUp,
        step: measured,
        gradientStep: plain,
        ratioOfMedians: plain === null ? null : ratioOf(measured, plain),
      };
      return { document, text: inWords(first.session, sizes, count, steps, measured, plain) };
    } finally {
      await Promise.all(opened.map((session) => session.delete()));
    }
  },
};
