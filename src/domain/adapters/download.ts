/** What a project learned, for taking away: adapters as PEFT folders, exports as Hugging Face folders. */
import { ApiError, badRequest } from '../../errors.ts';
import { readSegments, type Segment, segmentsLength } from '../../storage/segments.ts';
import type { ByteRange } from '../../storage/storage.ts';
import type { Dependencies } from '../dependencies.ts';
import { resolveOwnModel } from '../models/registry.ts';
import type { TunedModelRow } from '../models/repository.ts';
import { getExport } from './exports.ts';
import type { OperationRow } from './operations-repository.ts';
import { ADAPTER_FILES, WEIGHTS_FILE } from './received.ts';
import { type TarEntry, tarSegments } from './tar.ts';

type Deps = Pick<Dependencies, 'database' | 'storage'>;

/** Bytes under a name, of which any range can be read. */
export interface Archive {
  filename: string;
  bytes: number;
  /** Changes whenever the bytes do. */
  version: string;
  open(range?: ByteRange): AsyncIterable<Uint8Array>;
}

export type AdapterFormat = 'tar' | 'safetensors';

/** The model's adapter: the PEFT folder in one tar, or its weights alone. ApiError 404, 403 for another's, 400 when it has none. */
export async function openAdapter(
  deps: Deps,
  projectId: string,
  model: string,
  format: AdapterFormat,
): Promise<Archive> {
  const { tuned } = await resolveOwnModel(deps, projectId, model);
  if (!tuned) throw noAdapter(`'${model}' is a base model: it has no adapter.`);
  const files = tuned.files.filter((file) => ADAPTER_FILES.includes(file.name));
  const weights = files.find((file) => file.name === WEIGHTS_FILE);
  if (!weights)
    throw noAdapter(`'${model}' is a fully trained model without an adapter. Create an export of it.`);
  const stored = (file: { name: string; bytes: number }) => ({
    key: `${tuned.storagePrefix}/${file.name}`,
    bytes: file.bytes,
  });
  const folder = folderOf(tuned.id);
  if (format === 'safetensors') {
    return archive(deps, `${folder}.safetensors`, `${tuned.digest}-weights`, [stored(weights)]);
  }
  const readme = Buffer.from(adapterReadme(tuned));
  const entries = [
    ...files.map((file) => ({ path: `${folder}/${file.name}`, content: stored(file) })),
    { path: `${folder}/README.md`, content: readme },
  ];
  return archive(deps, `${folder}.tar`, `${tuned.digest}-tar`, tarSegments(entries, tuned.createdAt));
}

/** The merged model in one tar. Throws ApiError 404, or 400 while it is not ready. */
export async function openExport(deps: Deps, projectId: string, id: string): Promise<Archive> {
  const row = await getExport(deps, projectId, id);
  const { files, storagePrefix } = row;
  if (row.status !== 'succeeded' || !files || !storagePrefix) {
    // 400 and not 409, which SDKs repeat at once.
    const message = `The export is ${row.status}. It can be downloaded when its status is 'succeeded'.`;
    throw badRequest(message, 'export_id', 'export_not_ready');
  }
  const folder = `${folderOf(row.modelId)}-merged`;
  const entries: TarEntry[] = files.map((file) => ({
    path: `${folder}/${file.name}`,
    content: { key: `${storagePrefix}/${file.name}`, bytes: file.bytes },
  }));
  entries.push({ path: `${folder}/README.md`, content: Buffer.from(exportReadme(row)) });
  return archive(deps, `${folder}.tar`, row.id, tarSegments(entries, row.finishedAt ?? row.createdAt));
}

/** Bytes of an export's archive; null while there is none. */
export const exportBytes = ({ files }: OperationRow): number | null =>
  files?.reduce((sum, file) => sum + file.bytes, 0) ?? null;

const noAdapter = (message: string) =>
  new ApiError({ status: 400, message, param: 'model', code: 'no_adapter' });

function archive(
  { storage }: Deps,
  filename: string,
  version: string,
  segments: readonly Segment[],
): Archive {
  const bytes = segmentsLength(segments);
  return { filename, bytes, version, open: (range) => readSegments(storage, segments, range) };
}

/** A name for folders and files: what of the model's name is safe everywhere, cut to what a tar header holds. */
const folderOf = (model: string) =>
  model
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .slice(-60)
    .replace(/^[-.]+/, '');

function adapterReadme(tuned: TunedModelRow): string {
  const origin = tuned.jobId ? `the fine-tuning job \`${tuned.jobId}\`` : 'an import';
  return `---
base_model: ${JSON.stringify(tuned.baseModel)}
library_name: peft
---

# ${tuned.id}

A LoRA adapter for \`${tuned.baseModel}\`, from ${origin} (step ${tuned.step}), ${tuned.createdAt.toISOString()}.

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(${JSON.stringify(tuned.baseModel)})
model = PeftModel.from_pretrained(base, ".")
\`\`\`
`;
}

function exportReadme(row: OperationRow): string {
  return `---
base_model: ${JSON.stringify(row.baseModel)}
---

# ${row.modelId}

\`${row.baseModel}\` with what \`${row.modelId}\` learned in its weights; it needs no adapter.
`;
}
