// The same models with bf16 weights. The yardstick is the f32 reference, and the error that transformers' own bf16
// makes against it: ours may be no further off.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { accumulateGradients, evaluate } from '../../workers/engine/losses/supervised.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import {
  CASES,
  type CaseName,
  caseFolder,
  everyRow,
  pack,
  readReference,
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

function openCase(name: CaseName, trainable = false): Model {
  return own(openModel(caseFolder(name), device, { dtype: 'bf16', trainable }));
}

for (const name of CASES) {
  describe(`${name} in bf16`, () => {
    const reference = readReference(name);
    const tensors = readTensors(name);
    const batch = pack(reference.batch);
    const stored = (key: string) => tensors.get(key)!.values;

    it('gives the logits of f32, and those of transformers in bf16', () => {
      const logits = openCase(name).logits(batch, everyRow(batch, 1));
      const limit = Math.min(TOLERANCE.modelBf16, reference.bf16.logits_error_vs_fp32);
      expectClose(`${name} logits bf16 against f32`, 'logits', logits, stored('logits.base'), limit);
      const theirs = stored('logits.bf16');
      expectClose(`${name} logits bf16 against bf16`, 'logits', logits, theirs, TOLERANCE.modelBf16);
    });

    it('gives the loss of f32 and of transformers in bf16', () => {
      const { lossSum, labelled } = evaluate(openCase(name), batch);
      const loss = [lossSum / labelled];
      expectClose(`${name} loss bf16 against f32`, 'loss', loss, [reference.base.loss], TOLERANCE.modelBf16);
      expectClose(`${name} loss bf16 against bf16`, 'loss', loss, [reference.bf16.loss], TOLERANCE.modelBf16);
    });

    it('gives LoRA gradients within 2e-2 of f32, and no further than PEFT’s own', () => {
      const model = openCase(name);
      const adapter = own(LoraAdapter.load(join(caseFolder(name), 'adapter_init'), model));
      model.attach(adapter);
      const labelledTotal = reference.base.labelled;
      accumulateGradients(model, batch, { labelledTotal, seed: 0, step: 0, microBatch: 0 });
      const limit = Math.min(TOLERANCE.modelBf16, reference.bf16.lora_grad_error_vs_fp32_max);
      for (const [key, parameter] of adapter.parameters()) {
        expect(parameter.dtype).toBe('f32');
        const grad = parameter.grad!.toFloat32();
        expectClose(
          `${name} LoRA gradients bf16`,
          `gradient of ${key}`,
          grad,
          stored(`lora_grad.${key}`),
          limit,
        );
      }
    });

    it('follows the losses of f32 for twenty LoRA steps', () => {
      const model = openCase(name);
      const adapter = own(LoraAdapter.load(join(caseFolder(name), 'adapter_init'), model));
      model.attach(adapter);
      expectLosses(
        'LoRA',
        trainRecordedSteps(model, reference, reference.optimizer.learning_rate, 20),
        reference.steps,
      );
    });

    it('follows the losses of f32 for twenty steps of full fine-tuning with f32 masters', () => {
      const log = trainRecordedSteps(openCase(name, true), reference, reference.full_steps.learning_rate, 20);
      expectLosses('full', log, reference.full_steps);
    });

    function expectLosses(kind: string, ours: StepLog[], theirs: { log: StepLog[] }): void {
      for (const [step, { loss }] of theirs.log.entries()) {
        const what = `loss of step ${step}`;
        expectClose(
          `${name} ${kind} step losses bf16`,
          what,
          [ours[step]!.loss],
          [loss],
          TOLERANCE.modelBf16,
        );
      }
    }
  });
}
