/** Pooling over windows of images [B, H, W, C]. */
import type { WindowGeometry } from '../../shared/convolution.ts';
import type { PoolingLayer } from '../../shared/model-layer.ts';
import { poolingGeometry } from '../../shared/model-shapes.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { padWindows, sumWindowViews, windowViews } from '../tensor/windows.ts';
import type { Differentiable } from './pullback.ts';

export function pooling(engine: Engine, layer: PoolingLayer, images: Tensor): Differentiable {
  const [, height = 1, width = 1] = images.shape;
  const geometry = poolingGeometry(layer, height, width);
  return layer.kind === 'max-pooling' ? maxPooling(engine, geometry, images) : averagePooling(engine, geometry, images);
}

function maxPooling(engine: Engine, geometry: WindowGeometry, images: Tensor): Differentiable {
  const { concat, maxPool, maxPoolGradient, reshape, slice } = engine;
  const [batch = 1] = images.shape;
  const largest = maxPool(images, geometry);
  const inner = largest.shape.slice(1);
  return {
    value: largest,
    pullback: (rows) => {
      const columns = (rows.shape[0] ?? 1) / batch;
      if (columns === 1) return maxPoolGradient(images, largest, rows, geometry);
      return engine.scope(() => {
        const bySample = reshape(rows, [batch, columns, ...inner]);
        const gradients = Array.from({ length: columns }, (_, column) => {
          const gradient = reshape(slice(bySample, 1, column, 1), [batch, ...inner]);
          const inImages = maxPoolGradient(images, largest, gradient, geometry);
          return reshape(inImages, [batch, 1, ...images.shape.slice(1)]);
        });
        return reshape(concat(gradients, 1), [batch * columns, ...images.shape.slice(1)]);
      });
    },
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

/** 1 in the image, 0 in its padding, [1, H', W', 1]. */
function inside(engine: Engine, geometry: WindowGeometry, height: number, width: number): Tensor {
  const ones = engine.tensor(new Float32Array(height * width).fill(1), [1, height, width, 1]);
  return padWindows(engine, geometry, ones);
}
