// Twenty optimizer steps against torch.optim.AdamW under PEFT and transformers: two micro-batches a step with the loss
// normalised over the step's labelled tokens, linear schedule with warmup, clip at norm 1, decoupled weight decay.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import {
  CASES,
  caseFolder,
  everyRow,
  pack,
  readReference,
  readSafetensors,
  readTensors,
  type StepLog,
} from '../golden/read.ts';
import { trainRecordedSteps } from '../golden/steps.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { disposeAfterEach } from '../helpers/owned.ts';
import { TOLERANCE } from '../helpers/tolerance.ts';

const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();

reportFigures();

function expectSameRun(kind: string, ours: StepLog[], theirs: StepLog[]): void {
  const column = (log: StepLog[], key: keyof StepLog) => log.map((entry) => entry[key]);
  const rates = [column(ours, 'learning_rate'), column(theirs, 'learning_rate')] as const;
  expectClose(`${kind} learning rates`, 'learning rates', ...rates, 1e-12);
  for (const [step, entry] of theirs.entries()) {
    const what = `loss of step ${step}`;
    expectClose(`${kind} step losses f32`, what, [ours[step]!.loss], [entry.loss], TOLERANCE.stepLossF32);
    const norm = `gradient norm of step ${step}`;
    expectClose(
      `${kind} step norms f32`,
      norm,
      [ours[step]!.grad_norm],
      [entry.grad_norm],
      TOLERANCE.stepLossF32,
    );
  }
  expect(theirs[theirs.length - 1]!.loss).toBeLessThan(theirs[0]!.loss - 0.5);
}

for (const name of CASES) {
  describe(`${name}: twenty steps`, () => {
    const reference = readReference(name);
    const tensors = readTensors(name);

    it('of LoRA give the losses and the adapter of PEFT', () => {
      const model = own(openModel(caseFolder(name), device, { dtype: 'f32' }));
      const adapter = own(LoraAdapter.load(join(caseFolder(name), 'adapter_init'), model));
      model.attach(adapter);
      const { log } = reference.steps;
      expectSameRun(
        `${name} LoRA`,
        trainRecordedSteps(model, reference, reference.optimizer.learning_rate, log.length),
        log,
      );

      const trained = readSafetensors(join(caseFolder(name), 'adapter_final', 'adapter_model.safetensors'));
      for (const [key, parameter] of adapter.parameters()) {
        const ours = parameter.toFloat32();
        expectClose(`${name} final adapter f32`, key, ours, trained.get(key)!.values, TOLERANCE.stepLossF32);
      }
      const batch = pack(reference.batch);
      const logits = model.logits(batch, everyRow(batch, 3));
      const expected = tensors.get('logits.adapter_final')!.values;
      expectClose(`${name} logits after 20 steps`, 'logits', logits, expected, TOLERANCE.stepLossF32);
    });

    it('of full fine-tuning give the losses of transformers', () => {
      const model = own(openModel(caseFolder(name), device, { dtype: 'f32', trainable: true }));
      const { learning_rate: rate, log } = reference.full_steps;
      expectSameRun(`${name} full`, trainRecordedSteps(model, reference, rate, log.length), log);
    });
  });
}
