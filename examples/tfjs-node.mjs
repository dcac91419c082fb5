/**
 * TensorFlow.js in Node: a dense net on real handwritten digits, trained through the service, next to Adam on the same net.
 *
 *     npm start                                           # the service, in another terminal
 *     npm exec -- node examples/tfjs-node.mjs [address] [layers | hosted]
 *
 * With the package installed the adapter is 'ddpnopt/tfjs', and '@tensorflow/tfjs-node' in place of the two lines of backend is faster.
 */
import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import * as tfl from '@tensorflow/tfjs-layers';
import { trainWith } from '../clients/js/tfjs/index.ts';

const [url = 'http://127.0.0.1:8787', mode = 'layers'] = process.argv.slice(2);
const EPOCHS = 3;
const TEST_SAMPLES = 297;

await tf.setBackend('cpu');

// 1,797 images of 8×8 pixels from 0 to 16, and a label in the last column.
const file = new URL('../clients/datasets/digits/digits.csv.gz', import.meta.url);
const rows = gunzipSync(await readFile(file))
  .toString()
  .trim()
  .split('\n')
  .map((line) => line.split(',').map(Number));
const images = (part) => tf.tensor2d(part.map((row) => row.slice(0, 64).map((pixel) => pixel / 16)));
const labels = (part) =>
  tf.tensor1d(
    part.map((row) => row[64]),
    'float32',
  );
const [test, train] = [rows.slice(0, TEST_SAMPLES), rows.slice(TEST_SAMPLES)];
const [x, y] = [images(train), labels(train)];
const validationData = [images(test), labels(test)];

function newModel() {
  const model = tfl.sequential({
    layers: [
      tfl.layers.dense({
        units: 32,
        activation: 'relu',
        inputShape: [64],
        kernelInitializer: tfl.initializers.heNormal({ seed: 1 }),
      }),
      tfl.layers.dense({ units: 10, activation: 'softmax', kernelInitializer: tfl.initializers.heNormal({ seed: 2 }) }),
    ],
  });
  model.compile({ optimizer: tf.train.adam(0.01), loss: 'sparseCategoricalCrossentropy', metrics: ['accuracy'] });
  return model;
}

const model = newModel();
const trainer = await trainWith(model, { tf, url, mode });
await trainer.fit(x, y, {
  epochs: EPOCHS,
  validationData,
  callbacks: {
    onEpochEnd: (epoch, { loss, val_acc }) =>
      console.log(
        `DDPNOpt, epoch ${epoch + 1}: loss ${loss.toFixed(4)}, test accuracy ${(100 * val_acc).toFixed(1)} %`,
      ),
  },
});
const { bytes } = trainer.history.columns;
console.log(
  `${bytes.length} steps, ${Math.round(bytes.reduce((sum, value) => sum + value) / bytes.length / 1000)} KB each`,
);
await trainer.dispose();

// The model is trained as if TensorFlow.js had done it.
const [, accuracy] = model.evaluate(...validationData);
console.log(`model.evaluate: test accuracy ${(100 * accuracy.dataSync()[0]).toFixed(1)} %`);

const adam = newModel();
const { history } = await adam.fit(x, y, { epochs: EPOCHS, batchSize: 64, validationData, verbose: 0 });
console.log(
  `Adam, epoch ${EPOCHS}: loss ${history.loss.at(-1).toFixed(4)}, test accuracy ${(100 * history.val_acc.at(-1)).toFixed(1)} %`,
);
