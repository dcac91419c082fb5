/** A model trained in a hosted session, exported: it answers the same in TensorFlow.js, in Keras and in PyTorch. */
import '@tensorflow/tfjs-backend-cpu';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import * as tf from '@tensorflow/tfjs-core';
import * as tfl from '@tensorflow/tfjs-layers';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import {
  DdpnoptClient,
  InterchangeError,
  toLayersModel,
  toPyTorch,
  type HostedTrainingSession,
  type TrainedWeights,
} from '../../clients/js/index.ts';
import { startStack, type LocalStack } from '../../deploy/local/stack.ts';
import { encode } from '../../shared/safetensors.ts';
import type { HostedDefinitionInput } from '../../shared/hosted-definition.ts';
import { seededRandom } from '../../shared/random.ts';

const run = promisify(execFile);
const PYTHON = path.join(import.meta.dirname, '../../.peers/venv/bin/python');

/** Every kind of layer that has an equal in all three; images that are not square, so that no axes can be confused. */
const IMAGES: HostedDefinitionInput['model'] = {
  input: [7, 6, 2],
  layers: [
    { kind: 'conv2d', name: 'conv', outputs: 4, kernel: [3, 2], strides: [1, 2], padding: { kind: 'same' } },
    { kind: 'batch-norm', name: 'norm' },
    { kind: 'relu' },
    {
      kind: 'residual',
      layers: [
        { kind: 'conv2d', name: 'inner', outputs: 4, kernel: [3, 3], padding: { kind: 'explicit', rows: [1, 1], columns: [1, 1] } },
        { kind: 'tanh' },
      ],
    },
    { kind: 'max-pooling', window: [2, 1] },
    { kind: 'average-pooling', window: [2, 2], strides: [1, 1] },
    { kind: 'flatten' },
    { kind: 'layer-norm', name: 'layer_norm' },
    { kind: 'dense', name: 'hidden', outputs: 6 },
    { kind: 'gelu' },
    { kind: 'dropout', rate: 0.5 },
    { kind: 'dense', name: 'out', outputs: 3, bias: false },
    { kind: 'softplus' },
  ],
}; // prettier-ignore

/** The same in PyTorch, as somebody would write it. */
const TORCH = `
import sys, torch
from torch import nn
from safetensors.torch import load_file

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, (3, 2), stride=(1, 2))
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.layer_norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, 6)
        self.out = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(nn.functional.pad(x, (0, 0, 1, 1)))))
        x = x + torch.tanh(self.inner(x))
        x = nn.functional.avg_pool2d(nn.functional.max_pool2d(x, (2, 1)), 2, stride=1)
        x = nn.functional.gelu(self.hidden(self.layer_norm(x.flatten(1))))
        return nn.functional.softplus(self.out(x))

model = Model()
model.load_state_dict(load_file(sys.argv[1]))
model.eval()
x = load_file(sys.argv[2])["x"]
# Images are [channels, height, width] there.
print(model(x.permute(0, 3, 1, 2)).flatten().tolist())
`;

const KERAS = `
import json, os, sys
import keras, numpy
folder = sys.argv[1]
document = json.load(open(os.path.join(folder, "model.json")))
model = keras.models.model_from_json(json.dumps(document["modelTopology"]))
data = numpy.fromfile(os.path.join(folder, "weights.bin"), dtype="<f4")
weights, offset = [], 0
for spec in document["weightsManifest"][0]["weights"]:
    size = int(numpy.prod(spec["shape"]))
    weights.append(data[offset:offset + size].reshape(spec["shape"]))
    offset += size
model.set_weights(weights)
x = numpy.fromfile(os.path.join(folder, "x.bin"), dtype="<f4").reshape(-1, *model.input_shape[1:])
print(model.predict(x, verbose=0).flatten().tolist())
`;

let stack: LocalStack;
let folder: string;
let session: HostedTrainingSession;
let weights: TrainedWeights;
let outputs: number[];
const x = Float32Array.from({ length: 5 * 7 * 6 * 2 }, (_, i) => Math.sin(1.7 * i));

beforeAll(async () => {
  await tf.setBackend('cpu');
  [stack, folder] = await Promise.all([
    startStack({ engine: 'reference' }),
    mkdtemp(path.join(tmpdir(), 'ddpnopt-interchange-')),
  ]);
  session = await new DdpnoptClient({ url: stack.url }).createHostedSession({
    model: IMAGES,
    loss: { kind: 'softmax-cross-entropy' },
  });
  const random = seededRandom(1);
  for (let step = 0; step < 5; step++) {
    const batch = Float32Array.from({ length: 8 * 84 }, () => 2 * random() - 1);
    await session.step({ x: batch, y: Uint8Array.from({ length: 8 }, () => Math.floor(3 * random())) });
  }
  weights = await session.weights();
  outputs = [...(await session.predict({ x })).outputs];
});
afterAll(async () => {
  await stack.stop();
  await rm(folder, { recursive: true });
});

function expectEqual(actual: readonly number[]): void {
  expect(actual).toHaveLength(outputs.length);
  for (const [index, value] of actual.entries()) expect(value).toBeCloseTo(outputs[index]!, 4);
}

it('in TensorFlow.js', async () => {
  const { json, weights: bytes } = toLayersModel(session.session.model, weights);
  const model = await tfl.loadLayersModel(
    tf.io.fromMemory({
      modelTopology: JSON.parse(JSON.stringify(json.modelTopology)) as object,
      weightSpecs: json.weightsManifest[0].weights,
      weightData: bytes.buffer,
    }),
  );
  expectEqual([...(model.predict(tf.tensor(x, [5, 7, 6, 2])) as tf.Tensor).dataSync()]);
});

it('in PyTorch', async (context) => {
  await needs(context, 'torch, safetensors');
  await writeFile(path.join(folder, 'state.safetensors'), toPyTorch(session.session.model, weights));
  await writeFile(path.join(folder, 'x.safetensors'), encode([{ name: 'x', shape: [5, 7, 6, 2], values: x }]));
  await writeFile(path.join(folder, 'model.py'), TORCH);
  const { stdout } = await run(PYTHON, ['model.py', 'state.safetensors', 'x.safetensors'], { cwd: folder });
  expectEqual(JSON.parse(stdout) as number[]);
});

it('in Keras', async (context) => {
  await needs(context, 'keras');
  const { json, weights: bytes } = toLayersModel(session.session.model, weights);
  await writeFile(path.join(folder, 'model.json'), JSON.stringify(json));
  await writeFile(path.join(folder, 'weights.bin'), bytes);
  await writeFile(path.join(folder, 'x.bin'), new Uint8Array(x.buffer));
  await writeFile(path.join(folder, 'load.py'), KERAS);
  const env = { KERAS_BACKEND: 'torch', ...process.env };
  const { stdout } = await run(python(), ['load.py', '.'], { cwd: folder, env });
  expectEqual(JSON.parse(stdout.trim().split('\n').at(-1)!) as number[]);
});

describe('refuses by name', () => {
  it('what TensorFlow.js has not', () => {
    const { layers } = session.session.model;
    const grouped = layers.map((layer) => (layer.kind === 'conv2d' ? { ...layer, groups: 2 } : layer));
    const input = session.session.model.input;
    expect(() => toLayersModel({ input, layers: grouped }, weights)).toThrow(InterchangeError);
    expect(() => toLayersModel({ input, layers: grouped }, weights)).toThrow(/layer conv is a convolution in 2 groups/);
  });

  it('weights that are missing', () => {
    expect(() => toPyTorch(session.session.model, new Map())).toThrow(/lack layers\.conv\.weight/);
  });
});

/** A Python that another place than the project's own may have, for the packages that the benchmarks' does not bring. */
function python(): string {
  return process.env['DDPNOPT_TEST_PYTHON'] ?? PYTHON;
}

async function needs(context: TestContext, packages: string): Promise<void> {
  const program = packages === 'keras' ? python() : PYTHON;
  if (!existsSync(program)) {
    context.skip(`there is no ${program}; npm run bench:peers:install brings it`);
    return;
  }
  const found = await run(program, ['-c', `import importlib.util as u, sys; sys.exit(0 if all(u.find_spec(p.strip()) for p in "${packages}".split(",")) else 1)`]).catch(() => null); // prettier-ignore
  if (found === null) context.skip(`${program} has no ${packages}`);
}
