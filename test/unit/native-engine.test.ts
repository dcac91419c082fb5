/** What npm run native takes for finished, and what it is made of. */
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { finishedVariant, writeManifest } from '../../deploy/native/manifest.ts';
import { RECIPES, VARIANTS } from '../../deploy/native/packages.ts';

const FILES = ['binding.node', 'tensorflow/library.so'];

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'ddpnopt-native-'));
  await mkdir(path.join(folder, 'tensorflow'));
  for (const file of FILES) await writeFile(path.join(folder, file), 'content');
});

afterEach(async () => {
  await rm(folder, { recursive: true });
});

describe('an engine', () => {
  it.each(VARIANTS)('for the %s is finished when everything is there', async (variant) => {
    expect(await finishedVariant(folder)).toBeNull();
    await writeManifest(folder, variant, FILES);
    expect(await finishedVariant(folder)).toBe(variant);
  });

  it.each([
    ['a file is shorter', (file: string) => truncate(file, 3)],
    ['a file is not there', (file: string) => rm(file)],
  ])('is not when %s', async (_, damage) => {
    await writeManifest(folder, 'cpu', FILES);
    await damage(path.join(folder, FILES[1]!));
    expect(await finishedVariant(folder)).toBeNull();
  });

  it('is not when it was made from something else, or says something else', async () => {
    await writeManifest(folder, 'cpu', FILES);
    const file = path.join(folder, 'engine.json');
    const text = await readFile(file, 'utf8');
    for (const changed of [text.replace('"cpu"', '"gpu"'), text.replace('"cpu"', '"tpu"'), text.replace(/"recipe": "\w/, '"recipe": "x'), '{}', '{']) {
      expect(changed).not.toBe(text);
      await writeFile(file, changed);
      expect(await finishedVariant(folder)).toBeNull();
    } // prettier-ignore
    await writeFile(file, text);
    expect(await finishedVariant(folder)).toBe('cpu');
  });
});

describe.each(VARIANTS)('the packages for the %s', (variant) => {
  const { wheels } = RECIPES[variant];

  it.each(wheels)('$requirement: its file is of its version, and what is linked is among its libraries', (wheel) => {
    const [name, version] = wheel.requirement.split('==');
    expect(wheel.file).toMatch(new RegExp(`^${name!.replaceAll('-', '_')}-${version!}-.*_x86_64\\.whl$`));
    expect(wheel.sha256).toMatch(/^[0-9a-f]{64}$/);
    expect(wheel.libraries).toEqual(expect.arrayContaining([...wheel.linked]));
  });

  it('come from different files', () => {
    expect(new Set(wheels.map(({ sha256 }) => sha256)).size).toBe(wheels.length);
  });
});
