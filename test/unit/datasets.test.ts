/** The loaders of data sets beside DIGITS and MNIST: the bundled ones as they are, the others on files of their formats made here. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest';
import { cifar10Records } from '../../bench/data/cifar10-records.ts';
import { loadBreastCancer } from '../../clients/datasets/breast-cancer/breast-cancer.ts';
import { loadCifar10 } from '../../clients/datasets/cifar10/cifar10.ts';
import { loadLabelledCsv } from '../../clients/datasets/labelled-csv.ts';
import { parseMat } from '../../clients/datasets/svhn/mat-file.ts';
import { loadSvhn } from '../../clients/datasets/svhn/svhn.ts';
import { loadWine } from '../../clients/datasets/wine/wine.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'datasets-'));
});
afterEach(() => rm(folder, { recursive: true }));

function counts(labels: Uint8Array, classes: number): number[] {
  return Array.from({ length: classes }, (_, which) => labels.filter((label) => label === which).length);
}

it('WINE has its 178 wines, in the units of its source', async () => {
  const wine = await loadWine();
  expect(wine).toMatchObject({ size: 178, features: 13, classes: 3 });
  expect(counts(wine.labels, 3)).toEqual([59, 71, 48]);
  expect([...wine.inputs.subarray(0, 3), wine.inputs[12]]).toEqual([14.23, 1.71, 2.43, 1065].map(Math.fround));
});

it('Breast Cancer Wisconsin has its 569 tumours', async () => {
  const tumours = await loadBreastCancer();
  expect(tumours).toMatchObject({ size: 569, features: 30, classes: 2 });
  expect(counts(tumours.labels, 2)).toEqual([212, 357]);
});

it.each([
  ['3,2,a,b\n1,2,0\n3,4,1\n', 'table.csv has 2 samples, not 3'],
  ['1,2,a,b\n1,2,2\n', 'table.csv: line 2 is not 2 numbers and a class'],
  ['1,2,a,b\n1,x,0\n', 'table.csv: line 2 is not 2 numbers and a class'],
  ['1,2,a,b\n1,0\n', 'table.csv: line 2 is not 2 numbers and a class'],
])('refuses the table %j', async (content, message) => {
  const file = join(folder, 'table.csv');
  await writeFile(file, content);
  await expect(loadLabelledCsv(pathToFileURL(file))).rejects.toThrow(message);
});

/** A record whose red, green and blue planes count up from these values. */
function record(label: number, starts: readonly number[]): number[] {
  const planes = starts.flatMap((start) => Array.from({ length: 1024 }, (_, pixel) => (start + pixel) % 256));
  return [label, ...planes];
}

it('CIFAR-10: planes become channels, and the batches one set', async () => {
  for (let batch = 1; batch <= 5; batch++) {
    await writeFile(join(folder, `data_batch_${batch}.bin`), Uint8Array.from(record(batch, [0, 100, 200])));
  }
  await writeFile(join(folder, 'test_batch.bin'), Uint8Array.from([...record(9, [1, 2, 3]), ...record(0, [4, 5, 6])]));
  const { train, test } = await loadCifar10(folder);
  expect(train).toMatchObject({ size: 5, features: 3072, classes: 10 });
  expect([...train.labels]).toEqual([1, 2, 3, 4, 5]);
  expect([...train.inputs.subarray(0, 6)]).toEqual([0, 100, 200, 1, 101, 201].map((value) => Math.fround(value / 255)));
  expect([...test.labels]).toEqual([9, 0]);
  expect([...test.inputs.subarray(3072, 3075)]).toEqual([4, 5, 6].map((value) => Math.fround(value / 255)));
});

it('CIFAR-10: a file that is cut off, and a class that is none', async () => {
  for (let batch = 1; batch <= 5; batch++) {
    await writeFile(join(folder, `data_batch_${batch}.bin`), Uint8Array.from(record(1, [0, 0, 0])));
  }
  await writeFile(join(folder, 'test_batch.bin'), Uint8Array.from(record(1, [0, 0, 0]).slice(1)));
  await expect(loadCifar10(folder)).rejects.toThrow('test_batch.bin has 3072 bytes, which are no records of 3073');
  await writeFile(join(folder, 'test_batch.bin'), Uint8Array.from(record(10, [0, 0, 0])));
  await expect(loadCifar10(folder)).rejects.toThrow('test_batch.bin: there is no class 10');
});

it('CIFAR-10: a picture of an image a row becomes the records of its author', async () => {
  const records = [record(3, [0, 100, 200]), record(7, [50, 60, 70])];
  const pixels = records.flatMap((each) =>
    Array.from({ length: 1024 }, (_, pixel) => [0, 1, 2].map((channel) => each[1 + 1024 * channel + pixel] ?? 0)),
  );
  const picture = await sharp(Uint8Array.from(pixels.flat()), { raw: { width: 1024, height: 2, channels: 3 } })
    .png()
    .toBuffer();
  expect([...(await cifar10Records(picture, [3, 7]))]).toEqual(records.flat());
  await expect(cifar10Records(picture, [3])).rejects.toThrow('a picture of 1024×2×3 bytes, not 1024×1×3');
});

it('says where the files of a set that is not there come from, and how another folder is named', async () => {
  await expect(loadCifar10(folder)).rejects.toThrow(/no data_batch_1.bin.*bench:data.*DDPNOPT_CIFAR10/);
  await expect(loadSvhn(folder)).rejects.toThrow(/no train_32x32.mat.*housenumbers.*DDPNOPT_SVHN/);
  // Whoever has named one is told so: bringing the files would not help.
  vi.stubEnv('DDPNOPT_CIFAR10', folder);
  onTestFinished(() => void vi.unstubAllEnvs());
  await expect(loadCifar10()).rejects.toThrow(`DDPNOPT_CIFAR10 names that folder`);
});

/** A data element of a Level 5 MAT-file, written after "MAT-File Format" of The MathWorks. */
function element(type: number, data: Uint8Array): Buffer {
  if (data.length <= 4) {
    const small = Buffer.alloc(8);
    small.writeUInt16LE(type, 0);
    small.writeUInt16LE(data.length, 2);
    small.set(data, 4);
    return small;
  }
  const whole = Buffer.alloc(8 + (type === 15 ? data.length : Math.ceil(data.length / 8) * 8));
  whole.writeUInt32LE(type, 0);
  whole.writeUInt32LE(data.length, 4);
  whole.set(data, 8);
  return whole;
}

function int32(values: readonly number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(values).buffer);
}

function matrix(name: string, shape: readonly number[], values: Uint8Array | Float64Array): Buffer {
  const numeric =
    values instanceof Float64Array ? element(9, new Uint8Array(values.buffer)) : element(2, Uint8Array.from(values));
  const parts = [element(6, int32([9, 0])), element(5, int32(shape)), element(1, Buffer.from(name)), numeric];
  return element(14, Buffer.concat(parts));
}

function matFile(...elements: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(128, 0x20);
  header.writeUInt16LE(0x0100, 124);
  header.write('IM', 126, 'latin1');
  return Buffer.concat([header, ...elements]);
}

const compressed = (inner: Uint8Array): Buffer => element(15, deflateSync(inner));

// Two images of two rows, three columns and three channels: each value says where it belongs, column-major.
const SHAPE = [2, 3, 3, 2] as const;
const IMAGES = Uint8Array.from({ length: 36 }, (_, index) => index);
const channelsLast = (sample: number): number[] =>
  [0, 1].flatMap((row) =>
    [0, 1, 2].flatMap((column) => [0, 1, 2].map((channel) => row + 2 * (column + 3 * (channel + 3 * sample)))),
  );

it.each([
  ['compressed, labels as bytes', compressed, Uint8Array.of(10, 3)],
  ['as it is, labels as doubles', (inner: Buffer) => inner, Float64Array.of(10, 3)],
])('SVHN: column-major images, the digit 0 as class 10; %s', async (_, stored, labels) => {
  const file = matFile(stored(matrix('X', SHAPE, IMAGES)), stored(matrix('y', [2, 1], labels)));
  await writeFile(join(folder, 'train_32x32.mat'), file);
  await writeFile(join(folder, 'test_32x32.mat'), file);
  const { train, test } = await loadSvhn(folder);
  expect(train).toMatchObject({ size: 2, features: 18, classes: 10 });
  expect([...train.labels]).toEqual([0, 3]);
  const expected = [...channelsLast(0), ...channelsLast(1)].map((value) => Math.fround(value / 255));
  expect([...train.inputs]).toEqual(expected);
  expect([...test.inputs]).toEqual(expected);
});

it('SVHN: refuses labels that do not fit, and classes that are none', async () => {
  const write = async (labels: Uint8Array): Promise<void> => {
    await writeFile(
      join(folder, 'train_32x32.mat'),
      matFile(matrix('X', SHAPE, IMAGES), matrix('y', [labels.length, 1], labels)),
    );
  };
  await write(Uint8Array.of(1));
  await expect(loadSvhn(folder)).rejects.toThrow('images [2, 3, 3, 2] and labels [1, 1] do not fit');
  await write(Uint8Array.of(0, 1));
  await expect(loadSvhn(folder)).rejects.toThrow('there is no class 0');
});

it('refuses what is no such MAT-file', () => {
  expect(() => parseMat(Buffer.alloc(200), 'x.mat')).toThrow('x.mat is no little-endian Level 5 MAT-file');
  const whole = matFile(matrix('X', SHAPE, IMAGES));
  expect(() => parseMat(whole.subarray(0, -8), 'x.mat')).toThrow('x.mat ends in the middle of an array');
  const other = matFile(element(14, element(6, int32([4, 0]))));
  expect(() => parseMat(other, 'x.mat')).toThrow('x.mat has an array that is not numeric');
  const single = matFile(
    element(
      14,
      Buffer.concat([
        element(6, int32([7, 0])),
        element(5, int32([1, 2])),
        element(1, Buffer.from('X')),
        element(7, int32([1, 2])),
      ]),
    ),
  );
  expect(() => parseMat(single, 'x.mat')).toThrow('x.mat has an array of type 7; unsigned bytes and doubles are read');
});
