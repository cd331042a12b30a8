/** What the worker and the process of one operation say to each other, once each. */

export interface OperationRequest {
  kind: 'import' | 'export';
  /** Folder of the base model. */
  baseDir: string;
  baseModel: string;
  /** Folder with adapter_config.json and adapter_model.safetensors. */
  adapterDir: string;
  /** Empty folder for the result. */
  outDir: string;
  threads: number;
}

/** `refused`: the adapter is not what it must be, and `message` says why. */
export type OperationAnswer = { type: 'done' } | { type: 'refused'; message: string };
