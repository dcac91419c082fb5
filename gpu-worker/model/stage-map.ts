/** The maps of layers with parameters, z = f(x, u), and their vector–Jacobian products in x. */
import { convolutionGeometry } from '../../shared/convolution.ts';
import type { Conv2dLayer } from '../../shared/layer.ts';
import type { StageLayer } from '../../shared/model-stages.ts';
import { timesLastAxis } from '../optimizer/layers/per-sample-gradients.ts';
import type { Engine, Tensor } from '../tensor/engine.ts';
import { convolutionAdjoint } from '../tensor/windows.ts';
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
  const { concat, slice } = engine;
  const window = convolutionGeometry(layer);
  const channels = layer.inputs / layer.groups;
  const outputs = layer.outputs / layer.groups;
  const byGroup = (map: (group: number) => Tensor): Tensor =>
    layer.groups === 1 ? map(0) : engine.scope(() => concat(Array.from({ length: layer.groups }, (_, group) => map(group)), 3)); // prettier-ignore
  const ofGroup = (tensor: Tensor, group: number, width: number): Tensor =>
    layer.groups === 1 ? tensor : slice(tensor, 3, group * width, width);
  return {
    value: byGroup((group) => engine.convolution(ofGroup(x, group, channels), ofGroup(weight, group, outputs), window)),
    pullback: (rows) =>
      byGroup((group) =>
        convolutionAdjoint(engine, window, ofGroup(weight, group, outputs), ofGroup(rows, group, outputs), [
          layer.height,
          layer.width,
        ]),
      ),
  };
}
