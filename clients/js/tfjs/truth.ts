/** y as TensorFlow.js programs have it, as the loss takes it. */
import type { TfjsLoss } from './read-model.ts';
import type { Tensor, TensorFlow } from './tensorflow.ts';

/** Labels counted from 0, [B], of labels [B] or [B, 1] or of classes one-hot, [B, C]. @throws RangeError for anything else */
export async function labelsOf(y: Tensor, classes: number): Promise<Float32Array> {
  const [batch = 0, width = 1, ...more] = y.shape;
  const values = Float32Array.from(await y.data());
  if (more.length > 0 || (width !== 1 && width !== classes)) {
    throw new RangeError(
      `y has shape [${y.shape.join(', ')}]; labels [B] or classes one-hot [B, ${String(classes)}] were expected`,
    );
  }
  if (width === 1) {
    const stranger = values.find((label) => !Number.isInteger(label) || label < 0 || label >= classes);
    if (stranger === undefined) return values;
    throw new RangeError(`y has ${String(stranger)}; labels from 0 to ${String(classes - 1)} were expected`);
  }
  return Float32Array.from({ length: batch }, (_, i) => {
    const row = values.subarray(i * width, (i + 1) * width);
    const label = row.indexOf(1);
    if (label >= 0 && row.every((value, k) => value === (k === label ? 1 : 0))) return label;
    throw new RangeError(`row ${String(i)} of y is no class one-hot: one 1 among zeros was expected`);
  });
}

/** y as {@link sampleLosses} takes it, [B, C], to be disposed by the caller. @throws RangeError */
export async function truthOf(tf: TensorFlow, loss: TfjsLoss, y: Tensor, outputs: number): Promise<Tensor> {
  if (loss === 'softmax-cross-entropy') {
    const labels = await labelsOf(y, outputs);
    return tf.tidy(() => tf.oneHot(tf.tensor(labels, [labels.length], 'int32'), outputs));
  }
  const batch = y.shape[0];
  if (y.size !== batch * outputs) {
    throw new RangeError(`y has shape [${y.shape.join(', ')}]; targets [B, ${String(outputs)}] were expected`);
  }
  return tf.reshape(y, [batch, outputs]);
}

/** Share of rows whose largest output is at the label. */
export function accuracyOf(outputs: ArrayLike<number>, labels: ArrayLike<number>): number {
  const classes = outputs.length / labels.length;
  let correct = 0;
  for (let i = 0; i < labels.length; i++) {
    let best = 0;
    for (let k = 1; k < classes; k++) {
      if ((outputs[i * classes + k] ?? 0) > (outputs[i * classes + best] ?? 0)) best = k;
    }
    if (best === labels[i]) correct++;
  }
  return correct / labels.length;
}
