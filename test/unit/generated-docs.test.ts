/** Generated pages are what they are generated from, and no number in them is typed by hand. */
import { readdir, readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { renderOptions } from '../../docs/generate/options.ts';
import { renderClientBytes, type ClientBytesResults } from '../../bench/client-bytes/report.ts';
import { renderDurability, type DurabilityResults } from '../../bench/durability/report.ts';
import { renderEngines, type EngineResults } from '../../bench/engine/report.ts';
import { renderFeedbackImages, renderFigure, type FeedbackImageResults } from '../../bench/feedback-images/report.ts';
import { renderKernelSolve, type KernelSolveResults } from '../../bench/kernel-solve/report.ts';
import { renderLearningRates, type LearningRateResults } from '../../bench/learning-rate/report.ts';
import {
  renderTimeMemory,
  renderFigures as renderTimeMemoryFigures,
  type TimeMemoryResults,
} from '../../bench/time-memory/report.ts';
import { renderTransport, type TransportResults } from '../../bench/transport/report.ts';
import { renderScaling, scalingFigures, type ScalingResults } from '../../bench/scaling/report.ts';
import { renderReadmeTable, renderResults, type QuickstartResults } from '../../bench/quickstart/report.ts';
import { renderService, type ServiceResults } from '../../bench/service/report.ts';
import { renderFigures, renderTrainingTime, type TrainingTimeResults } from '../../bench/training-time/report.ts';
import { renderVanishingGradients, renderFigures as renderVanishingFigures, type VanishingGradientResults } from '../../bench/vanishing-gradients/report.ts'; // prettier-ignore
import { renderResponsiveness, type ResponsivenessResults } from '../../bench/responsiveness/report.ts';

import { CATALOGUE } from '../../bench/results/catalogue.ts';
import { claimsPage } from '../../bench/results/publish.ts';
import { digestOf } from '../../bench/digest.ts';
import { BASELINES, UNTUNED } from '../../bench/results/optimizers.ts';
import { mean } from '../../bench/results/statistics.ts';
import type { AccuracyResults } from '../../bench/results/items/accuracy.ts';
import { PNG_SOURCES, readResults } from '../../bench/results-folder.ts';

const FOLDER = new URL('../../docs/results/', import.meta.url);

it('docs/results/quickstart.md is made from quickstart.json', async () => {
  const stored = JSON.parse(await readFile(new URL('quickstart.json', FOLDER), 'utf8')) as QuickstartResults;
  expect(await readFile(new URL('quickstart.md', FOLDER), 'utf8')).toBe(renderResults(stored));
});

it('the README’s table is made from quickstart.json', async () => {
  const stored = JSON.parse(await readFile(new URL('quickstart.json', FOLDER), 'utf8')) as QuickstartResults;
  expect(await readFile(new URL('../../README.md', import.meta.url), 'utf8')).toContain(renderReadmeTable(stored));
});

it('docs/results/learning-rate.md is made from learning-rate.json', async () => {
  const stored = JSON.parse(await readFile(new URL('learning-rate.json', FOLDER), 'utf8')) as LearningRateResults;
  expect(await readFile(new URL('learning-rate.md', FOLDER), 'utf8')).toBe(renderLearningRates(stored));
});

it('docs/results/kernel-solve.md is made from kernel-solve.json', async () => {
  const stored = JSON.parse(await readFile(new URL('kernel-solve.json', FOLDER), 'utf8')) as KernelSolveResults;
  expect(await readFile(new URL('kernel-solve.md', FOLDER), 'utf8')).toBe(renderKernelSolve(stored));
});

it('docs/results/transport.md is made from transport.json', async () => {
  const stored = JSON.parse(await readFile(new URL('transport.json', FOLDER), 'utf8')) as TransportResults;
  expect(await readFile(new URL('transport.md', FOLDER), 'utf8')).toBe(renderTransport(stored));
});

it('docs/results/client-bytes.md is made from client-bytes.json', async () => {
  const stored = JSON.parse(await readFile(new URL('client-bytes.json', FOLDER), 'utf8')) as ClientBytesResults;
  expect(await readFile(new URL('client-bytes.md', FOLDER), 'utf8')).toBe(renderClientBytes(stored));
});

it('docs/results/engine.md is made from engine.json', async () => {
  const stored = JSON.parse(await readFile(new URL('engine.json', FOLDER), 'utf8')) as EngineResults;
  expect(await readFile(new URL('engine.md', FOLDER), 'utf8')).toBe(renderEngines(stored));
});

it('docs/results/responsiveness.md is made from responsiveness.json', async () => {
  const stored = JSON.parse(await readFile(new URL('responsiveness.json', FOLDER), 'utf8')) as ResponsivenessResults;
  expect(await readFile(new URL('responsiveness.md', FOLDER), 'utf8')).toBe(renderResponsiveness(stored));
});

it('docs/results/scaling.md and its figures are made from scaling.json', async () => {
  const stored = JSON.parse(await readFile(new URL('scaling.json', FOLDER), 'utf8')) as ScalingResults;
  expect(await readFile(new URL('scaling.md', FOLDER), 'utf8')).toBe(renderScaling(stored));
  const figures = scalingFigures(stored);
  expect(figures.size).toBe(4);
  for (const [file, figure] of figures) expect(await readFile(new URL(file, FOLDER), 'utf8')).toBe(figure);
});

it('docs/options.md is made from the schemas', async () => {
  const page = new URL('../../docs/options.md', import.meta.url);
  expect(await readFile(page, 'utf8')).toBe(renderOptions());
});

it('docs/results/durability.md is made from durability.json', async () => {
  const stored = JSON.parse(await readFile(new URL('durability.json', FOLDER), 'utf8')) as DurabilityResults;
  expect(await readFile(new URL('durability.md', FOLDER), 'utf8')).toBe(renderDurability(stored));
});

it('docs/results/service.md is made from service.json', async () => {
  const stored = JSON.parse(await readFile(new URL('service.json', FOLDER), 'utf8')) as ServiceResults;
  expect(await readFile(new URL('service.md', FOLDER), 'utf8')).toBe(renderService(stored));
});

it('docs/results/training-time.md and its figures are made from training-time.json', async () => {
  const stored = JSON.parse(await readFile(new URL('training-time.json', FOLDER), 'utf8')) as TrainingTimeResults;
  expect(await readFile(new URL('training-time.md', FOLDER), 'utf8')).toBe(renderTrainingTime(stored));
  for (const task of stored.tasks) {
    for (const [name, svg] of renderFigures(task)) {
      expect(await readFile(new URL(name, FOLDER), 'utf8')).toBe(svg);
    }
  }
});

it('docs/results/feedback-images.md and its images are made from feedback-images.json', async () => {
  const stored = JSON.parse(await readFile(new URL('feedback-images.json', FOLDER), 'utf8')) as FeedbackImageResults;
  expect(await readFile(new URL('feedback-images.md', FOLDER), 'utf8')).toBe(renderFeedbackImages(stored));
  expect(await readFile(new URL('feedback-images.svg', FOLDER), 'utf8')).toBe(renderFigure(stored));
});

it('the pages of bench:results and their figures are made from their JSON', async () => {
  const present = new Set(await readdir(FOLDER));
  const written = CATALOGUE.filter(({ id }) => present.has(`${id}.json`));
  expect(written.map(({ id }) => id)).toContain('accuracy');
  for (const { id, render } of written) {
    const stored: unknown = JSON.parse(await readFile(new URL(`${id}.json`, FOLDER), 'utf8'));
    for (const [name, content] of render(stored)) expect(await readFile(new URL(name, FOLDER), 'utf8')).toBe(content);
  }
});

it('docs/results/README.md is made from the results', async () => {
  expect(await readFile(new URL('README.md', FOLDER), 'utf8')).toBe(claimsPage());
});

it('docs/results/vanishing-gradients.md and its figures are made from vanishing-gradients.json', async () => {
  const text = await readFile(new URL('vanishing-gradients.json', FOLDER), 'utf8');
  const stored = JSON.parse(text) as VanishingGradientResults;
  expect(await readFile(new URL('vanishing-gradients.md', FOLDER), 'utf8')).toBe(renderVanishingGradients(stored));
  for (const [file, figure] of renderVanishingFigures(stored)) {
    expect(await readFile(new URL(file, FOLDER), 'utf8')).toBe(figure);
  }
});

it('docs/results/time-memory.md and its figures are made from time-memory.json', async () => {
  const stored = JSON.parse(await readFile(new URL('time-memory.json', FOLDER), 'utf8')) as TimeMemoryResults;
  expect(await readFile(new URL('time-memory.md', FOLDER), 'utf8')).toBe(renderTimeMemory(stored));
  for (const [file, figure] of renderTimeMemoryFigures(stored)) {
    expect(await readFile(new URL(file, FOLDER), 'utf8')).toBe(figure);
  }
});

it('every figure of docs/results is there as SVG, and as a PNG that was made of that', async () => {
  const files = await readdir(FOLDER);
  const figures = files.filter((file) => file.endsWith('.svg'));
  expect(figures.length).toBeGreaterThan(0);
  expect(files.filter((file) => file.endsWith('.png'))).toEqual(figures.map((file) => file.replace('.svg', '.png')));
  const digests = figures.map(async (file) => [file, digestOf(await readFile(new URL(file, FOLDER), 'utf8'))] as const);
  expect(readResults(PNG_SOURCES)).toEqual(Object.fromEntries(await Promise.all(digests)));
});

it('the README says of convolutional nets what accuracy.json has', async () => {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
  expect(readme.replaceAll(/\s+/g, ' ')).toContain(
    'On small convolutional nets on MNIST, Fashion-MNIST and CIFAR-10 the defaults end ahead of every tuned baseline,',
  );
  const { tasks } = readResults('accuracy') as AccuracyResults;
  const convolutional = tasks.filter((task) => task.isConvolutional);
  expect(convolutional.map(({ id }) => id)).toEqual(['mnist-cnn', 'fashion-mnist-cnn', 'cifar10-cnn']);
  for (const { optimizers } of convolutional) {
    const best = (ids: readonly string[]) =>
      Math.max(...optimizers.filter(({ id }) => ids.includes(id)).map(({ accuracies }) => mean(accuracies)));
    expect(best([UNTUNED.id])).toBeGreaterThan(best(BASELINES.map(({ id }) => id)));
  }
});
