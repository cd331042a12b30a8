// What bf16 costs on a trained model and real rows: lathe-tiny and the example task. The yardstick is the same engine
// in f32, whose own distance from PEFT (1e-6) parity.test.ts holds.
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { batchesOf } from '../../workers/engine/data/batches.ts';
import { loadDataset } from '../../workers/engine/data/validate.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { accumulateGradients } from '../../workers/engine/losses/supervised.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import { AdamW } from '../../workers/engine/optim/adamw.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/lora.ts';
import type { FloatDType } from '../../workers/engine/tensor.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { TOLERANCE } from '../helpers/tolerance.ts';

const at = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const folder = at('models/lathe-tiny');
const { dataset } = await loadDataset(at('examples/data/train.jsonl'), loadTokenizer(folder), {
  maxLength: 2048,
  overlong: 'error',
});
const device = openDevice({ kind: 'cpu' });
const open: { dispose(): void }[] = [];

reportFigures();
afterAll(() => {
  for (const thing of open.reverse()) thing.dispose();
});

function prepare(dtype: FloatDType) {
  const model = openModel(folder, device, { dtype });
  const adapter = LoraAdapter.create(model, { ...LORA_DEFAULTS, r: 8, lora_alpha: 16 }, 1);
  open.push(model, adapter);
  model.attach(adapter);
  const optimizer = new AdamW(model.trainableParameters());
  return { model, adapter, optimizer };
}

describe('lathe-tiny on the example task', () => {
  const exact = prepare('f32');
  const rounded = prepare('bf16');

  /** Gradients of step `step` in `trainer.model`, and the mean loss. */
  function backward({ model, optimizer }: typeof exact, step: number): number {
    const batches = batchesOf(dataset, { batchSize: 8, maxTokens: 2048, seed: 1, step });
    const labelledTotal = batches.reduce((sum, b) => sum + b.targets.filter((t) => t >= 0).length, 0);
    optimizer.zeroGrad();
    const sums = batches.map((batch, microBatch) =>
      accumulateGradients(model, batch, { labelledTotal, seed: 1, step, microBatch }),
    );
    return sums.reduce((sum, { lossSum }) => sum + lossSum, 0) / labelledTotal;
  }

  it('gives loss and every LoRA gradient of f32 within 2e-2, from the first step to a moved adapter', () => {
    for (let step = 0; step < 10; step++) {
      const loss = backward(exact, step);
      expectClose(
        'trained loss bf16',
        `loss of step ${step}`,
        [backward(rounded, step)],
        [loss],
        TOLERANCE.modelBf16,
      );
      const wanted = exact.adapter.parameters();
      for (const [key, { grad }] of rounded.adapter.parameters()) {
        const reference = wanted.get(key)!.grad!;
        const what = `step ${step}, gradient of ${key}`;
        // Before the first step B is zero, and so is every gradient of A.
        if (step === 0 && key.includes('lora_A')) expect(grad!.toFloat32().every((g) => g === 0)).toBe(true);
        else
          expectClose(
            'trained LoRA gradients bf16',
            what,
            grad!.toFloat32(),
            reference.toFloat32(),
            TOLERANCE.modelBf16,
          );
        // Both go on from the same point: the error of one step is measured, not how two runs part.
        device.native.copy(grad!.handle, reference.handle);
      }
      for (const { optimizer } of [exact, rounded]) optimizer.step(2e-3, { maxGradNorm: 1 });
    }
  });
});
