// Trains a LoRA adapter and a full model on every golden case with the engine and saves them, with the engine's own
// logits, for verify_roundtrip.py:
//   node test/golden/export_for_python.ts <folder> && python test/golden/verify_roundtrip.py <folder>
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openDevice } from '../../workers/engine/device.ts';
import { writeSafetensors } from '../../workers/engine/io/safetensors.ts';
import { accumulateGradients } from '../../workers/engine/losses/supervised.ts';
import type { Model } from '../../workers/engine/models/model.ts';
import { openModel } from '../../workers/engine/models/open-model.ts';
import { AdamW } from '../../workers/engine/optim/adamw.ts';
import { LoraAdapter } from '../../workers/engine/peft/lora.ts';
import { Tensor } from '../../workers/engine/tensor.ts';
import { CASES, type CaseName, caseFolder, everyRow, labelledTokens, pack, readReference } from './read.ts';

const STEPS = 8;
const device = openDevice({ kind: 'cpu' });

function train(model: Model, name: CaseName, learningRate: number): number[] {
  const pool = readReference(name).micro_batches;
  const optimizer = new AdamW(model.trainableParameters(), { weightDecay: 0.01 });
  return Array.from({ length: STEPS }, (_, step) => {
    const sequences = pool[step % pool.length]!;
    const labelledTotal = labelledTokens(sequences);
    const { lossSum } = accumulateGradients(model, pack(sequences), {
      labelledTotal,
      seed: 1,
      step,
      microBatch: 0,
    });
    optimizer.step(learningRate, { maxGradNorm: 1 });
    optimizer.zeroGrad();
    return lossSum / labelledTotal;
  });
}

/** The logits of the case's batch, all rows, beside what was saved. */
function saveLogits(model: Model, name: CaseName, path: string): void {
  const batch = pack(readReference(name).batch);
  const shape = [batch.ids.length, model.config.vocabSize];
  const logits = Tensor.fromFloat32(
    device,
    Float32Array.from(model.logits(batch, everyRow(batch, 1))),
    shape,
  );
  writeSafetensors(path, [['logits', logits]]);
  logits.dispose();
}

async function exportAdapter(name: CaseName, folder: string, useRslora: boolean): Promise<void> {
  const model = openModel(caseFolder(name), device, { dtype: 'f32' });
  const targets = useRslora ? ['q_proj', 'down_proj'] : 'all-linear';
  const config = { r: 5, lora_alpha: 9, lora_dropout: 0.1, target_modules: targets, use_rslora: useRslora };
  const adapter = LoraAdapter.create(model, config, 3);
  model.attach(adapter);
  const losses = train(model, name, 2e-2);
  await adapter.save(folder, { baseModelName: name });
  saveLogits(model, name, `${folder}.logits.safetensors`);
  console.log(`${folder}: loss ${losses[0]!.toFixed(4)} -> ${losses.at(-1)!.toFixed(4)}`);
  adapter.dispose();
  model.dispose();
}

/** The logits are those of the saved folder opened in f32: the same values, whatever type they were stored in. */
async function exportModel(name: CaseName, folder: string, dtype: 'f32' | 'bf16'): Promise<void> {
  const model = openModel(caseFolder(name), device, { dtype, trainable: true });
  const losses = train(model, name, 2e-3);
  await model.save(folder);
  const saved = openModel(folder, device, { dtype: 'f32' });
  saveLogits(saved, name, `${folder}.logits.safetensors`);
  saved.dispose();
  console.log(`${folder}: loss ${losses[0]!.toFixed(4)} -> ${losses.at(-1)!.toFixed(4)}`);
  model.dispose();
}

const out = process.argv[2];
if (out === undefined) throw new Error('usage: node test/golden/export_for_python.ts <folder>');
for (const name of CASES) {
  mkdirSync(join(out, name), { recursive: true });
  await exportAdapter(name, join(out, name, 'adapter'), false);
  await exportAdapter(name, join(out, name, 'adapter_rslora'), true);
  await exportModel(name, join(out, name, 'model'), 'f32');
  await exportModel(name, join(out, name, 'model_bf16'), 'bf16');
}
