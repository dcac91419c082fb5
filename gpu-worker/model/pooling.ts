/** Pooling over windows of images [B, H, W, C]. */
import type { PoolingLayer } from '../../shared/model-layer.ts';
import { poolingGeometry } from '../../shared/model-shapes.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { padWindows, sumWindowViews, windowViews, type WindowGeometry } from '../tensor/windows.ts';
import { timesPerSample, type Differentiable } from './pullback.ts';

export function pooling(engine: Engine, layer: PoolingLayer, images: Tensor): Differentiable {
  const [, height = 1, width = 1] = images.shape;
  const geometry = poolingGeometry(layer, height, width);
  return layer.kind === 'max-pooling' ? maxPooling(engine, geometry, images) : averagePooling(engine, geometry, images);
}

function maxPooling(engine: Engine, geometry: WindowGeometry, images: Tensor): Differentiable {
  const { add, isPositive, maximum, multiply, subtract } = engine;
  const [, height = 1, width = 1] = images.shape;
  const views = (): Tensor[] => {
    const padded = padWindows(engine, geometry, images);
    // Far below anything in the image, so that padding is never the largest.
    const border = multiply(subtract(1, inside(engine, geometry, height, width)), -1e30);
    return windowViews(engine, geometry, hasPadding(geometry) ? add(padded, border) : padded);
  };
  const largest = engine.scope(() => views().reduce((best, view) => maximum(best, view)));
  return {
    value: largest,
    pullback: (rows) =>
      engine.scope(() => {
        // Of several largest elements the first one gets the gradient.
        let free: Tensor | null = null;
        const gradients = views().map((view) => {
          const before: Tensor | null = free;
          const next = engine.scope(() => {
            const isLargest = subtract(1, isPositive(subtract(largest, view)));
            const chosen = before === null ? isLargest : multiply(before, isLargest);
            return {
              free: before === null ? subtract(1, chosen) : subtract(before, chosen),
              gradient: timesPerSample(engine, rows, chosen),
            };
          });
          if (before !== null) engine.dispose([before]);
          free = next.free;
          return next.gradient;
        });
        return sumWindowViews(engine, geometry, gradients, [height, width]);
      }),
  };
}

function averagePooling(engine: Engine, geometry: WindowGeometry, images: Tensor): Differentiable {
  const { add, divide } = engine;
  const [, height = 1, width = 1] = images.shape;
  const sum = (views: readonly Tensor[]): Tensor => views.reduce((total, view) => add(total, view));
  const counts = sum(windowViews(engine, geometry, inside(engine, geometry, height, width))); // [1, oh, ow, 1]
  const views = geometry.rows.kernel * geometry.columns.kernel;
  return {
    value: engine.scope(() => divide(sum(windowViews(engine, geometry, padWindows(engine, geometry, images))), counts)),
    pullback: (rows) =>
      engine.scope(() => {
        const share = divide(rows, counts);
        return sumWindowViews(engine, geometry, new Array<Tensor>(views).fill(share), [height, width]);
      }),
  };
}

function hasPadding({ rows, columns }: WindowGeometry): boolean {
  return [...rows.padding, ...columns.padding].some((zeros) => zeros > 0);
}

/** 1 in the image, 0 in its padding, [1, H', W', 1]. */
function inside(engine: Engine, geometry: WindowGeometry, height: number, width: number): Tensor {
  const ones = engine.tensor(new Float32Array(height * width).fill(1), [1, height, width, 1]);
  return padWindows(engine, geometry, ones);
}
