/**
 * One whole LoRA step on the device against the CPU engine in f32: loss and every gradient, in f32 and in bf16, on the
 * shipped model and example rows. On the CPU itself the plain C++ path is the reference.
 */
import path from 'node:path';
import { PROJECT_ROOT } from '../../src/config.ts';
import { relativeError, TOLERANCE } from '../../test/helpers/tolerance.ts';
import { batchesOf } from '../../workers/engine/data/batches.ts';
import type { Dataset } from '../../workers/engine/data/dataset.ts';
import { loadDataset } from '../../workers/engine/data/validate.ts';
import { type Device, openDevice } from '../../workers/engine/device.ts';
import { accumulateGradients } from '../../workers/engine/losses/supervised.ts';
import { openModel } from '../../workers/engine/models/index.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/index.ts';
import type { FloatDType } from '../../workers/engine/tensor.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { type Context, scientific } from './report.ts';

const folder = path.join(PROJECT_ROOT, 'models', 'lathe-tiny');
const rows = path.join(PROJECT_ROOT, 'examples', 'data', 'train.jsonl');

interface Step {
  loss: number;
  gradients: Map<string, Float32Array>;
}

export async function checkEngineParity(device: Device, { report }: Context): Promise<void> {
  const tokenizer = loadTokenizer(folder);
  const { dataset } = await loadDataset(rows, tokenizer, { maxLength: 2048, overlong: 'error' });
  const factors = randomFactors();
  const reference = referenceStep(device, dataset, factors);
  for (const [dtype, lossBound, gradientBound] of [
    ['f32', TOLERANCE.lossF32, TOLERANCE.gradientF32],
    ['bf16', TOLERANCE.modelBf16, device.kind === 'cpu' ? TOLERANCE.modelBf16 : BF16_ACTIVATIONS],
  ] as const) {
    const ours = step(device, dtype, dataset, factors);
    const loss = Math.abs(ours.loss - reference.loss) / reference.loss;
    const gradient = Math.max(
      ...[...reference.gradients].map(([key, values]) => relativeError(ours.gradients.get(key)!, values)),
    );
    report.keys[`parity_loss_${dtype}`] = loss;
    report.keys[`parity_gradient_${dtype}`] = gradient;
    report.judge(`loss of a LoRA step, ${dtype}`, scientific(loss), `≤ ${lossBound}`, loss <= lossBound);
    report.judge(
      `every LoRA gradient, ${dtype}`,
      scientific(gradient),
      `≤ ${gradientBound}`,
      gradient <= gradientBound,
    );
  }
}

/** Rounding every activation to bf16 costs up to 5e-2 in a gradient of this model; PEFT's own bf16 up to 7.5e-2. */
const BF16_ACTIVATIONS = 7.5e-2;

/** Values of A and B that both devices get: B is not zero, so that A has a gradient as well. */
function randomFactors(): (key: string, size: number) => Float32Array {
  const drawn = new Map<string, Float32Array>();
  return (key, size) => {
    const values = drawn.get(key) ?? Float32Array.from({ length: size }, () => 0.1 * (Math.random() - 0.5));
    drawn.set(key, values);
    return values;
  };
}

function referenceStep(device: Device, dataset: Dataset, factors: ReturnType<typeof randomFactors>): Step {
  const cpu = device.kind === 'cpu' ? device : openDevice({ kind: 'cpu' });
  const { isa } = cpu.native.info();
  cpu.native.configure({ isa: 'generic' });
  try {
    return step(cpu, 'f32', dataset, factors);
  } finally {
    cpu.native.configure({ isa });
  }
}

function step(
  device: Device,
  dtype: FloatDType,
  dataset: Dataset,
  factors: ReturnType<typeof randomFactors>,
): Step {
  const model = openModel(folder, device, { dtype });
  const adapter = LoraAdapter.create(model, { ...LORA_DEFAULTS, target_modules: 'all-linear' }, 1);
  try {
    for (const [key, { handle, shape }] of adapter.parameters()) {
      device.native.tensorWrite(
        handle,
        factors(
          key,
          shape.reduce((a, b) => a * b, 1),
        ),
      );
    }
    model.attach(adapter);
    const batches = batchesOf(dataset, { batchSize: 16, maxTokens: 2048, seed: 1, step: 0 });
    const labelledTotal = batches.reduce((sum, b) => sum + b.targets.filter((t) => t >= 0).length, 0);
    const sums = batches.map((batch, microBatch) =>
      accumulateGradients(model, batch, { labelledTotal, seed: 1, step: 0, microBatch }),
    );
    return {
      loss: sums.reduce((sum, { lossSum }) => sum + lossSum, 0) / labelledTotal,
      gradients: new Map([...adapter.parameters()].map(([key, { grad }]) => [key, grad!.toFloat32()])),
    };
  } finally {
    adapter.dispose();
    model.dispose();
  }
}
