/** Requests and answers as the OpenAPI document shows them, which the tests send and receive. */
import type { ApiKeyOrder, TenantLimitsInput } from '../../shared/access.ts';
import type { DataSet } from '../../shared/data-set.ts';
import type { EstimateOrderInput } from '../../shared/estimate.ts';
import type { Run, RunOrderInput } from '../../shared/run.ts';
import type { SessionChanges } from '../../shared/session-changes.ts';
import type { StepCommit, StepParts } from '../../shared/step-parts.ts';
import type { SessionDefinitionInput, StepMetrics } from '../../shared/session.ts';

export interface Example<Value> {
  readonly summary: string;
  readonly value: Value;
}

type Tensors = Readonly<Record<string, readonly unknown[]>>;

const LAYERS = {
  mode: 'layers',
  layers: [
    { name: 'fc1', kind: 'dense', inputs: 2, outputs: 2 },
    { name: 'fc2', kind: 'dense', inputs: 2, outputs: 1 },
  ],
  optimizer: { learningRate: { kind: 'constant', value: 10 }, coupling: 'value' },
} satisfies SessionDefinitionInput;

const KERNEL = {
  mode: 'kernel',
  layers: [{ name: 'fc1' }, { name: 'fc2' }],
  optimizer: { metric: { kind: 'client' } },
} satisfies SessionDefinitionInput;

const HOSTED = {
  mode: 'hosted',
  model: {
    input: [2],
    layers: [{ kind: 'dense', name: 'fc1', outputs: 4 }, { kind: 'tanh' }, { kind: 'dense', name: 'fc2', outputs: 2 }],
  },
  loss: { kind: 'softmax-cross-entropy' },
} satisfies SessionDefinitionInput;

export const SESSION_ORDERS = {
  layers: { summary: 'Two dense layers of a model that you run', value: LAYERS },
  kernel: { summary: 'Two layers whose data and parameters stay with you', value: KERNEL },
  hosted: { summary: 'A small perceptron that the service runs', value: HOSTED },
  fromCheckpoint: {
    summary: 'A session that goes on where a checkpoint was made',
    value: { fromCheckpoint: 'ckp_0123456789abcdef0123456789abcdef' },
  },
} satisfies Record<string, Example<object>>;

/** Each fits the session order of the same name. */
export const SESSION_CHANGES = {
  options: {
    summary: 'A smaller learning rate and more damping, for the rest of the session',
    value: { optimizer: { learningRate: { value: 1 }, metric: { damping: 0.1 } } },
  },
  default: { summary: 'An option back to its default', value: { optimizer: { valueRegularization: null } } },
  lifetime: { summary: 'A longer life', value: { ttlSeconds: 7200 } },
} satisfies Record<string, Example<SessionChanges>>;

export const ESTIMATE_ORDERS = {
  layers: { summary: 'Two dense layers, 128 samples', value: { session: LAYERS, batch: 128 } },
  hosted: { summary: 'A hosted perceptron, 32 samples', value: { session: HOSTED, batch: 32 } },
  kernel: { summary: 'Kernels of 64 samples in half precision', value: { session: KERNEL, batch: 64, sendAs: 'F16' } },
} satisfies Record<string, Example<EstimateOrderInput>>;

export const COMMIT = { parts: 2 } satisfies StepCommit;

export const STEP_PARTS = {
  step: 12,
  parts: [
    { part: 0, samples: 128, firstSample: 0, bytes: 301_224 },
    { part: 1, samples: 64, firstSample: 128, bytes: 150_700 },
  ],
  samples: 192,
  committed: false,
  expiresAt: '2026-11-23T12:15:00.000Z',
} satisfies StepParts;

export const STEPS = {
  layers: {
    summary: 'Two samples, mode layers',
    value: {
      losses: [0.5, 2],
      'layers.fc1.input': [
        [1, 0],
        [0, 1],
      ],
      'layers.fc1.output_grad': [
        [1, -0.5],
        [-2, 0.5],
      ],
      'layers.fc2.input': [
        [0.3, 0.9],
        [0.6, 0.1],
      ],
      'layers.fc2.output_grad': [[1], [-2]],
    },
  },
  kernel: {
    summary: 'Two samples, mode kernel: upper triangles of JP⁻¹Jᵀ',
    value: { losses: [0.5, 2], 'layers.fc1.gram': [1, 0.5, 2], 'layers.fc2.gram': [1, -0.25, 1] },
  },
  hosted: {
    summary: 'Two samples and their classes, mode hosted',
    value: {
      x: [
        [1, 0],
        [0, 1],
      ],
      y: [0, 1],
    },
  },
} satisfies Record<string, Example<Tensors>>;

export const PREDICTIONS = {
  loss: { summary: 'Two samples and their classes: outputs and mean loss', value: STEPS.hosted.value },
  outputs: { summary: 'One sample: outputs alone', value: { x: [[1, 0]] } },
} satisfies Record<string, Example<Tensors>>;

export const SYSTEMS = {
  twoStages: {
    summary: 'Two samples, two stages',
    value: {
      losses: [0.7, 1.2],
      grams: [
        [1, 0.5, 2],
        [1, -0.25, 1],
      ],
    },
  },
} satisfies Record<string, Example<Tensors>>;

export const DATA_CHUNKS = {
  labelled: {
    summary: 'Four samples and their classes',
    value: {
      x: [
        [1, 0],
        [0, 1],
        [0.9, 0.1],
        [0.2, 0.8],
      ],
      y: [0, 1, 0, 1],
    },
  },
} satisfies Record<string, Example<Tensors>>;

export const DATA_SET = {
  samples: 60_000,
  bytes: 94_320_416,
  chunks: [
    {
      chunk: 0,
      samples: 30_000,
      firstSample: 0,
      bytes: 47_160_208,
      digest: 'a3c1f2d0b7e84956a3c1f2d0b7e84956a3c1f2d0b7e84956a3c1f2d0b7e84956',
    },
    {
      chunk: 1,
      samples: 30_000,
      firstSample: 30_000,
      bytes: 47_160_208,
      digest: '5f4dcc3b5aa765d61d8327deb882cf995f4dcc3b5aa765d61d8327deb882cf99',
    },
  ],
  missingChunks: [],
} satisfies DataSet;

export const RUN_ORDERS = {
  shuffled: {
    summary: 'Ten steps on two samples each, in a random order',
    value: { steps: 10, batch: 2, order: { kind: 'shuffled', seed: 1 } },
  },
  sequential: {
    summary: 'In the order of the data set',
    value: { steps: 10, batch: 2, order: { kind: 'sequential' } },
  },
} satisfies Record<string, Example<RunOrderInput>>;

export const METRICS = {
  step: 0,
  batch: 2,
  loss: 1.25,
  lossAfter: null,
  learningRate: 10,
  terminalWeight: 0.625,
  refreshed: true,
  failedFactorizations: 0,
} satisfies StepMetrics;

export const RUN = {
  steps: 10,
  batch: 2,
  order: { kind: 'shuffled', seed: 1 },
  firstStep: 0,
  samples: 4,
  state: 'running',
  nextStep: 1,
  metrics: METRICS,
  problem: null,
  startedAt: '2026-11-23T12:00:00.000Z',
  endedAt: null,
} satisfies Run;

export const KEY_ORDERS = {
  training: { summary: 'A key for training', value: { name: 'laptop', tenant: 'research' } },
  reading: {
    summary: 'A key that reads, for a while',
    value: {
      name: 'dashboard',
      tenant: 'research',
      scopes: ['sessions:read', 'usage:read'],
      expiresAt: '2027-01-01T00:00:00Z',
    },
  },
} satisfies Record<string, Example<ApiKeyOrder>>;

export const LIMITS_OF_A_TENANT = {
  quotas: {
    summary: 'Twenty sessions, and ten hours of the device’s time a day',
    value: { sessions: 20, computeSecondsPerDay: 36_000 },
  },
} satisfies Record<string, Example<TenantLimitsInput>>;
