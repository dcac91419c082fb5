/** The maps of layers with parameters, z = f(x, u), and their vector–Jacobian products in x. */
import { convolutionGeometry } from '../../shared/convolution.ts';
import type { Conv2dLayer } from '../../shared/layer.ts';
import type { StageLayer } from '../../shared/model-stages.ts';
import { patches } from '../optimizer/layers/conv2d.ts';
import { timesLastAxis } from '../optimizer/layers/per-sample-gradients.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { sumWindowViews } from '../tensor/windows.ts';
import { parameter, type StageParameters } from './parameters.ts';

import type { Differentiable } from './pullback.ts';

export function stageMap(engine: Engine, layer: StageLayer, parameters: StageParameters, x: Tensor): Differentiable {
  const { add, multiply } = engine;
  switch (layer.kind) {
    case 'dense': {
      const weight = parameter(layer, parameters, 'weight');
      return {
        value: engine.scope(() => {
          const z = timesLastAxis(engine, x, weight);
          return layer.bias ? add(z, parameter(layer, parameters, 'bias')) : z;
        }),
        pullback: (rows) => timesLastAxis(engine, rows, weight, { transposeRight: true }),
      };
    }
    case 'scale-shift': {
      const scale = parameter(layer, parameters, 'scale');
      return {
        value: engine.scope(() => {
          const scaled = multiply(x, scale);
          return layer.shift ? add(scaled, parameter(layer, parameters, 'shift')) : scaled;
        }),
        pullback: (rows) => multiply(rows, scale),
      };
    }
    case 'conv2d': {
      const z = convolution(engine, layer, parameter(layer, parameters, 'weight'), x);
      if (!layer.bias) return z;
      const value = add(z.value, parameter(layer, parameters, 'bias'));
      engine.dispose([z.value]);
      return { ...z, value };
    }
  }
}

/** @param weight [kh, kw, C/G, c] @param x [B, H, W, C] */
function convolution(engine: Engine, layer: Conv2dLayer, weight: Tensor, x: Tensor): Differentiable {
  const { concat, reshape, slice } = engine;
  const geometry = convolutionGeometry(layer);
  const { rows: down, columns: across } = geometry;
  const [batch = 1] = x.shape;
  const elements = down.kernel * across.kernel;
  const channels = layer.inputs / layer.groups;
  const outputs = layer.outputs / layer.groups;
  const groups = Array.from({ length: layer.groups }, (_, group) => ({
    /** [kh·kw·C/G, c/G]. */
    kernel: reshape(slice(weight, 3, group * outputs, outputs), [elements * channels, outputs]),
    group,
  }));
  const joined = (tensors: readonly Tensor[]): Tensor => {
    const [only] = tensors;
    return only !== undefined && tensors.length === 1 ? only : concat(tensors, 3);
  };
  // The patches are the largest tensors of a model: in a scope, none outlives its product.
  const value = groups.map(({ kernel, group }) =>
    engine.scope(() => {
      const seen = patches(engine, layer, slice(x, 3, group * channels, channels));
      return reshape(timesLastAxis(engine, seen, kernel), [batch, down.outputs, across.outputs, outputs]);
    }),
  );
  return {
    value: joined(value),
    pullback: (rows) => {
      const [rowCount = 1] = rows.shape;
      const inputs = groups.map(({ kernel, group }) =>
        engine.scope(() => {
          const gradient = slice(rows, 3, group * outputs, outputs);
          const seen = reshape(timesLastAxis(engine, gradient, kernel, { transposeRight: true }), [
            rowCount,
            down.outputs,
            across.outputs,
            elements * channels,
          ]);
          const views = Array.from({ length: elements }, (_, element) => slice(seen, 3, element * channels, channels));
          return sumWindowViews(engine, geometry, views, [layer.height, layer.width]);
        }),
      );
      return joined(inputs);
    },
  };
}
