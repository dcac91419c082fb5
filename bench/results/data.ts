/** The data sets of the trials, each in three parts that are the same for every seed. */
import { standardisation } from '../../clients/train/data.ts';
import { loadBreastCancer } from '../../clients/datasets/breast-cancer/breast-cancer.ts';
import { CIFAR10, loadCifar10 } from '../../clients/datasets/cifar10/cifar10.ts';
import { loadDigits, type LabelledData } from '../../clients/datasets/digits/digits.ts';
import { loadMnist } from '../../clients/datasets/mnist/mnist.ts';
import { adviceOn, folderOf, isThere, type Source } from '../../clients/datasets/source.ts';
import { loadSvhn, SVHN } from '../../clients/datasets/svhn/svhn.ts';
import { loadWine } from '../../clients/datasets/wine/wine.ts';
import { parted, type Parts } from '../parts.ts';

export type DataSetName = 'wine' | 'digits' | 'breast-cancer' | 'mnist' | 'fashion-mnist' | 'cifar10' | 'svhn';

/** Of a data set without a test set of its own. */
const SMALL_TEST_SHARE = 0.2;
/** Of what is left then: a fifth of the whole. */
const SMALL_VALIDATION_SHARE = 0.25;
/** 5,000 of MNIST's images. */
const VALIDATION_SHARE = 1 / 12;

/** @throws Error if a file is missing or damaged */
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
      return largeParts(await loadCifar10());
    case 'svhn':
      return largeParts(await loadSvhn());
  }
}

/** What a user without the files of a data set is told; null where nothing is missing, or where nobody should go without. */
export function missingFiles(name: DataSetName): string | null {
  if (name === 'cifar10' && !isThere(CIFAR10, 'test_batch.bin')) return absence(CIFAR10);
  if (name === 'svhn' && !isThere(SVHN, 'test_32x32.mat')) return absence(SVHN);
  return null;
}

function absence(of: Source): string {
  return `${folderOf(of)} lacks its files. ${adviceOn(of)}`;
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
