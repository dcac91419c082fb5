/** The parts of a data set as files, for trainers in processes of their own. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { LabelledData } from '../clients/datasets/digits/digits.ts';
import type { Parts } from './parts.ts';
import type { PeerFiles } from './peers/peers.ts';

export type PartFiles = Readonly<Record<keyof Parts, PeerFiles>>;

/** Lends the parts as files, which are gone afterwards. */
export async function withFiles<Result>(parts: Parts, use: (files: PartFiles) => Promise<Result>): Promise<Result> {
  const folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-bench-'));
  try {
    return await use({
      train: await written(folder, 'train', parts.train),
      validation: await written(folder, 'validation', parts.validation),
      test: await written(folder, 'test', parts.test),
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function written(folder: string, part: string, { inputs, labels, size }: LabelledData): Promise<PeerFiles> {
  const files = { inputs: path.join(folder, `${part}.f32`), labels: path.join(folder, `${part}.u8`), size };
  await writeFile(files.inputs, new Uint8Array(inputs.buffer, inputs.byteOffset, inputs.byteLength));
  await writeFile(files.labels, labels);
  return files;
}
