/** The data sets of the trials, each in three parts that are the same for every seed. */
import { standardisation } from '../../clients/train/data.ts';
import { loadBreastCancer } from '../../clients/datasets/breast-cancer/breast-cancer.ts';
import { loadCifar10 } from '../../clients/datasets/cifar10/cifar10.ts';
import { loadDigits, type LabelledData } from '../../clients/datasets/digits/digits.ts';
import { loadMnist } from '../../clients/datasets/mnist/mnist.ts';
import { loadSvhn } from '../../clients/datasets/svhn/svhn.ts';
import { loadWine } from '../../clients/datasets/wine/wine.ts';
import { parted, type Parts } from '../parts.ts';

export type DataSetName = 'wine' | 'digits' | 'breast-cancer' | 'mnist' | 'fashion-mnist' | 'cifar10' | 'svhn';

/** Folders that the user names, of data sets that no package brings. */
const VARIABLES = { cifar10: 'DDPNOPT_CIFAR10', svhn: 'DDPNOPT_SVHN' } as const;

/** Of a data set without a test set of its own. */
const SMALL_TEST_SHARE = 0.2;
/** Of what is left then: a fifth of the whole. */
const SMALL_VALIDATION_SHARE = 0.25;
/** 5,000 of MNIST's images. */
const VALIDATION_SHARE = 1 / 12;

/** @throws Error if a file is missing or damaged, or no folder is named */
export async function loadParts(name: DataSetName): Promise<Parts> {
  switch (name) {
    case 'wine':
      return standardised(smallParts(await loadWine()));
    case 'breast-cancer':
      return standardised(smallParts(await loadBreastCancer()));
    case 'digits':
      return smallParts(await loadDigits());
    case 'mnist':
    case 'fashion-mnist':
      return largeParts(await loadMnist(name));
    case 'cifar10':
      return largeParts(await loadCifar10(namedFolder(name)));
    case 'svhn':
      return largeParts(await loadSvhn(namedFolder(name)));
  }
}

/** The variable that names the folder of a data set, where it is not named; null where nothing is missing. */
export function missingFolder(name: DataSetName): string | null {
  if (name !== 'cifar10' && name !== 'svhn') return null;
  const variable = VARIABLES[name];
  return (process.env[variable] ?? '') === '' ? variable : null;
}

function namedFolder(name: keyof typeof VARIABLES): string {
  const folder = process.env[VARIABLES[name]] ?? '';
  if (folder === '') throw new Error(`${VARIABLES[name]} must name the folder of ${name}'s files`);
  return folder;
}

function smallParts(data: LabelledData): Parts {
  const { train: rest, validation: test } = parted(data, SMALL_TEST_SHARE);
  return { ...parted(rest, SMALL_VALIDATION_SHARE), test };
}

function largeParts({ train, test }: Pick<Parts, 'train' | 'test'>): Parts {
  return { ...parted(train, VALIDATION_SHARE), test };
}

function standardised({ train, validation, test }: Parts): Parts {
  const apply = standardisation(train);
  return { train: apply(train), validation: apply(validation), test: apply(test) };
}
