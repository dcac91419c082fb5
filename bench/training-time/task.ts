/** What is trained, on what, and for how long. */
import { loadDigits } from '../../clients/datasets/digits/digits.ts';
import { loadMnist } from '../../clients/datasets/mnist/mnist.ts';
import type { ModelInput } from '../../shared/model.ts';
import { parted, type Parts } from '../parts.ts';
import { NETWORKS, perceptron } from '../peers/networks.ts';

export type DataSetName = 'digits' | 'mnist' | 'fashion-mnist';

export interface Task {
  readonly dataSet: DataSetName;
  readonly network: ModelInput;
  /** Widths of the layers, for the reader. */
  readonly widths: string;
  readonly batch: number;
  /** Epochs that a run may take; the schedule of each ends with it. */
  readonly budgets: readonly number[];
  /** A longer budget, for the contenders that everybody is compared with. */
  readonly longestBudget: number;
  /** Epochs of the runs that choose a learning rate, one of the budgets. */
  readonly tuningBudget: number;
  /** Features that stay of whitened inputs, and of the frozen input factor. */
  readonly rank: number;
}

const SETTINGS = {
  digits: {
    network: perceptron([64, 128, 128, 10]),
    widths: '64-128-128-10',
    budgets: [5, 10, 20],
    longestBudget: 40,
    tuningBudget: 20,
    rank: 48,
  },
  mnist: {
    network: NETWORKS['mlp-256'],
    widths: '784-256-256-10',
    budgets: [1, 2, 4],
    longestBudget: 8,
    tuningBudget: 2,
    rank: 128,
  },
  'fashion-mnist': {
    network: NETWORKS['mlp-256'],
    widths: '784-256-256-10',
    budgets: [1, 2, 4],
    longestBudget: 8,
    tuningBudget: 2,
    rank: 128,
  },
} as const satisfies Record<DataSetName, Omit<Task, 'dataSet' | 'batch'>>;

export function task(dataSet: DataSetName, batch: number): Task {
  return { dataSet, batch, ...SETTINGS[dataSet] };
}

/** Every share of the training set that is held back for validation: 1/12 of MNIST's is 5,000. */
const VALIDATION_SHARE = 1 / 12;
const DIGITS_TEST_SHARE = 0.2;

export async function loadParts(name: DataSetName): Promise<Parts> {
  if (name !== 'digits') {
    const { train, test } = await loadMnist(name);
    return { ...parted(train, VALIDATION_SHARE), test };
  }
  const { train: rest, validation: test } = parted(await loadDigits(), DIGITS_TEST_SHARE);
  return { ...parted(rest, VALIDATION_SHARE), test };
}
