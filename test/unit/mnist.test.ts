/** The loader of IDX files, on files of a few pixels made here. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseIdx } from '../../clients/datasets/mnist/idx.ts';
import { loadMnist } from '../../clients/datasets/mnist/mnist.ts';

function idx(shape: readonly number[], values: readonly number[], type = 0x08): Uint8Array {
  return Uint8Array.from([
    0,
    0,
    type,
    shape.length,
    ...shape.flatMap((length) => [0, 0, length >> 8, length & 255]),
    ...values,
  ]);
}

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'mnist-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function write(compressed: boolean, files: Record<string, Uint8Array>): Promise<void> {
  for (const [name, bytes] of Object.entries(files)) {
    await writeFile(join(folder, compressed ? `${name}.gz` : name), compressed ? gzipSync(bytes) : bytes);
  }
}

const FILES = {
  'train-images-idx3-ubyte': idx([3, 1, 2], [0, 255, 51, 102, 153, 204]),
  'train-labels-idx1-ubyte': idx([3], [7, 0, 9]),
  't10k-images-idx3-ubyte': idx([1, 1, 2], [255, 0]),
  't10k-labels-idx1-ubyte': idx([1], [4]),
};

it.each([false, true])('reads both sets; compressed: %s', async (compressed) => {
  await write(compressed, FILES);
  const { train, test } = await loadMnist('mnist', folder);
  expect(train).toMatchObject({ size: 3, features: 2, classes: 10 });
  expect([...train.inputs]).toEqual([0, 1, 0.2, 0.4, 0.6, 0.8].map(Math.fround));
  expect([...train.labels]).toEqual([7, 0, 9]);
  expect([...test.inputs]).toEqual([1, 0]);
  expect([...test.labels]).toEqual([4]);
});

it('keeps the order of axes, and lengths of more than one byte', () => {
  const values = Array.from({ length: 600 }, (_, index) => index & 255);
  expect(parseIdx(idx([300, 2], values), 'x')).toEqual({ shape: [300, 2], values: Uint8Array.from(values) });
});

it('says where a missing file comes from, and how another folder is named', async () => {
  await expect(loadMnist('mnist', folder)).rejects.toThrow(/train-images-idx3-ubyte.*bench:data.*DDPNOPT_MNIST/);
  await expect(loadMnist('fashion-mnist', folder)).rejects.toThrow(/bench:data.*DDPNOPT_FASHION_MNIST/);
});

it.each([
  ['no header', Uint8Array.of(0, 0)],
  ['other elements', idx([2], [1, 2], 0x0d)],
  ['no axes', idx([], [1])],
])('refuses a file with %s', (_, bytes) => {
  expect(() => parseIdx(bytes, 'file')).toThrow('file is no IDX file of unsigned bytes');
});

it('refuses a file that is cut off, too few labels, and a class that is none', async () => {
  expect(() => parseIdx(idx([2, 2], [1, 2, 3]), 'file')).toThrow('file has 3 elements, not the 4 of its shape [2, 2]');
  await write(false, { ...FILES, 't10k-labels-idx1-ubyte': idx([2], [4, 4]) });
  await expect(loadMnist('mnist', folder)).rejects.toThrow('t10k: images [1, 1, 2] and labels [2] do not fit');
  await write(false, { ...FILES, 't10k-labels-idx1-ubyte': idx([1], [10]) });
  await expect(loadMnist('mnist', folder)).rejects.toThrow('t10k: there is no class 10');
});
