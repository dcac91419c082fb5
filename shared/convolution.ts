/** Geometry of a two-dimensional convolution: output size and padding along each axis. */
export interface AxisGeometry {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  /** Zeros before and after. */
  readonly padding: readonly [number, number];
  /** Output positions; below 1 where the kernel does not fit. */
  readonly outputs: number;
}

export interface WindowGeometry {
  readonly rows: AxisGeometry;
  readonly columns: AxisGeometry;
}

interface Convolution {
  readonly height: number;
  readonly width: number;
  /** Rows and columns, as are strides and dilations. */
  readonly kernel: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  readonly padding:
    | { readonly kind: 'valid' | 'same' }
    | {
        readonly kind: 'explicit';
        readonly rows: readonly [number, number];
        readonly columns: readonly [number, number];
      };
}

/** The geometry along rows and columns; `same` pads as TensorFlow does, the odd zero behind. */
export function convolutionGeometry(layer: Convolution): WindowGeometry {
  const axis = (index: 0 | 1, length: number): AxisGeometry => {
    const kernel = layer.kernel[index];
    const stride = layer.strides[index];
    const dilation = layer.dilations[index];
    const extent = (kernel - 1) * dilation + 1;
    const padding = paddingOf(layer.padding, index, length, extent, stride);
    const outputs = Math.floor((length + padding[0] + padding[1] - extent) / stride) + 1;
    return { kernel, stride, dilation, padding, outputs };
  };
  return { rows: axis(0, layer.height), columns: axis(1, layer.width) };
}

function paddingOf(
  padding: Convolution['padding'],
  index: 0 | 1,
  length: number,
  extent: number,
  stride: number,
): readonly [number, number] {
  switch (padding.kind) {
    case 'valid':
      return [0, 0];
    case 'explicit':
      return index === 0 ? padding.rows : padding.columns;
    case 'same': {
      const total = Math.max((Math.ceil(length / stride) - 1) * stride + extent - length, 0);
      return [Math.floor(total / 2), Math.ceil(total / 2)];
    }
  }
}
