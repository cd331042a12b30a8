// DPO against TRL's own trainer on a small random model: twenty optimizer steps, LoRA, with the base model and with the
// frozen starting adapter as the reference. Tolerances are the contract's 1e-4; measured figures are far below.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import {
  accumulatePreferenceGradients,
  evaluatePreference,
  type PreferenceSums,
  sequenceLogProbs,
} from '../../workers/engine/losses/preference.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import { AdamW } from '../../workers/engine/optim/adamw.ts';
import { learningRateAt } from '../../workers/engine/optim/schedule.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { type DpoRun, packPairs, readDpoReference, readDpoTensors } from '../golden/dpo.ts';
import { caseFolder } from '../golden/read.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { disposeAfterEach } from '../helpers/owned.ts';
import { relativeError } from './tiny.ts';

const TOLERANCE = 1e-4;
const device = openDevice({ kind: 'cpu' });
const own = disposeAfterEach();
const golden = readDpoReference();
const tensors = readDpoTensors();
const batches = golden.micro_batches.map(packPairs);

reportFigures();

function openCase(): Model {
  return own(openModel(caseFolder('qwen3-tied'), device, { dtype: 'f32' }));
}

function attach(model: Model): LoraAdapter {
  const adapter = own(LoraAdapter.load(join(caseFolder('qwen3-tied'), 'adapter_init'), model));
  model.attach(adapter);
  return adapter;
}

/** The means that TRL logs for one micro-batch. */
function means(sums: PreferenceSums): Record<string, number> {
  const { pairs } = sums;
  return {
    'rewards/chosen': sums.rewardChosen / pairs,
    'rewards/rejected': sums.rewardRejected / pairs,
    'rewards/accuracies': sums.accurate / pairs,
    'rewards/margins': (sums.rewardChosen - sums.rewardRejected) / pairs,
    'logps/chosen': sums.logpChosen / pairs,
    'logps/rejected': sums.logpRejected / pairs,
    mean_token_accuracy: sums.chosenCorrect / sums.chosenTokens,
  };
}

function expectGradients(adapter: LoraAdapter, prefix: string): void {
  for (const [key, parameter] of adapter.parameters()) {
    const theirs = tensors.get(`${prefix}.${key}`)!.values;
    expectClose(`DPO ${prefix}`, key, parameter.grad!.toFloat32(), theirs, TOLERANCE);
  }
}

describe.each<DpoRun>(['base', 'adapter'])('twenty steps with the %s as reference', (run) => {
  it('give the losses, metrics, gradients and the adapter of TRL', () => {
    const model = openCase();
    const reference: Float64Array[] = [];
    if (run === 'base') reference.push(...batches.map((batch) => sequenceLogProbs(model, batch)));
    const adapter = attach(model);
    if (run === 'adapter') reference.push(...batches.map((batch) => sequenceLogProbs(model, batch)));

    const { optimizer: o, beta, runs } = golden;
    const optimizer = own(
      new AdamW(model.trainableParameters(), {
        betas: [o.beta1, o.beta2],
        eps: o.epsilon,
        weightDecay: o.weight_decay,
      }),
    );
    const totalSteps = runs[run].length;
    const schedule = {
      type: 'linear' as const,
      learningRate: o.learning_rate,
      warmupSteps: o.warmup_steps,
      totalSteps,
    };
    for (const [step, theirs] of runs[run].entries()) {
      const chosen = [0, 1].map((m) => (2 * step + m) % batches.length);
      const pairsTotal = chosen.reduce((sum, i) => sum + golden.micro_batches[i]!.length, 0);
      let lossSum = 0;
      for (const [microBatch, i] of chosen.entries()) {
        const at = { beta, pairsTotal, seed: 0, step, microBatch };
        const sums = accumulatePreferenceGradients(model, batches[i]!, reference[i]!, at);
        lossSum += sums.lossSum;
        const ours = means(sums);
        for (const [name, values] of Object.entries(theirs.metrics)) {
          const what = `${name} of step ${step}`;
          // rewards start at 0: measured against 1, not against themselves
          expect(Math.abs(ours[name]! - values[microBatch]!), what).toBeLessThan(
            TOLERANCE * Math.max(1, Math.abs(values[microBatch]!)),
          );
        }
      }
      expectClose(
        `DPO ${run} losses`,
        `loss of step ${step}`,
        [lossSum / pairsTotal],
        [theirs.loss],
        TOLERANCE,
      );
      if (step === 0 || step === 10 || step === 19) expectGradients(adapter, `${run}.grad${step}`);
      const { gradNorm } = optimizer.step(learningRateAt(step, schedule), { maxGradNorm: o.max_grad_norm });
      expectClose(`DPO ${run} norms`, `norm of step ${step}`, [gradNorm], [theirs.grad_norm], TOLERANCE);
      optimizer.zeroGrad();
    }
    for (const [key, parameter] of adapter.parameters()) {
      const theirs = tensors.get(`${run}.final.${key}`)!.values;
      expectClose(`DPO ${run} final adapter`, key, parameter.toFloat32(), theirs, TOLERANCE);
    }
    expect(runs[run].at(-1)!.loss).toBeLessThan(runs[run][0]!.loss / 2);
  });
});

describe('the loss', () => {
  const pairs = golden.micro_batches[1]!;

  it('does not depend on how pairs are packed, nor on activations being computed again', () => {
    const model = openCase();
    const adapter = attach(model);
    const gradients = (groups: (typeof pairs)[], recompute = false) => {
      let lossSum = 0;
      for (const [microBatch, group] of groups.entries()) {
        const batch = packPairs(group);
        const at = { beta: 0.3, pairsTotal: pairs.length, seed: 0, step: 0, microBatch, recompute };
        const reference = new Float64Array(2 * group.length).fill(-20);
        lossSum += accumulatePreferenceGradients(model, batch, reference, at).lossSum;
      }
      const found = [...adapter.parameters()].map(([, p]) => p.grad!.toFloat32());
      for (const [, p] of adapter.parameters()) device.native.fill(p.grad!.handle, 0);
      return { lossSum, found };
    };
    const together = gradients([pairs]);
    expect(gradients([pairs], true)).toEqual(together);
    const apart = gradients(pairs.map((pair) => [pair]));
    expect(apart.lossSum).toBe(together.lossSum);
    together.found.forEach((values, i) => {
      expect(relativeError(apart.found[i]!, values)).toBeLessThan(1e-5);
    });
  });

  it('is log 2 with zero rewards where the policy is its own reference, and falls for the preferred side', () => {
    const model = openCase();
    const batch = packPairs(pairs);
    const own = sequenceLogProbs(model, batch);
    const sums = evaluatePreference(model, batch, own, 0.1);
    expect(sums.lossSum / sums.pairs).toBeCloseTo(Math.log(2), 12);
    expect([sums.rewardChosen, sums.rewardRejected, sums.accurate]).toEqual([0, 0, 0]);
    // Δ = 1.5 and β 0.1: the published loss −log σ(0.15)
    const shifted = own.map((value, i) => value + (i % 2 === 0 ? -1 : 0.5));
    const better = evaluatePreference(model, batch, shifted, 0.1);
    expect(better.lossSum / better.pairs).toBeCloseTo(0.620957, 6);
    expect(better.rewardChosen / better.pairs).toBeCloseTo(0.1, 9);
    expect(better.rewardRejected / better.pairs).toBeCloseTo(-0.05, 9);
    expect(better.accurate).toBe(better.pairs);
  });

  it('refuses sequences that are no pairs', () => {
    const model = openCase();
    const batch = packPairs(pairs);
    expect(() => evaluatePreference(model, batch, new Float64Array(3), 0.1)).toThrow(RangeError);
  });
});
