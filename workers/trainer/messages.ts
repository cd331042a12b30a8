/**
 * What supervisor and child say to each other over the process channel. Plain JSON; paths are on this machine.
 */
import type { EffectiveAdapter } from '../../src/domain/jobs/hyperparameters.ts';
import type { DataMethod } from '../engine/data/formats.ts';
import type { DeviceOptions } from '../engine/device.ts';
import type { Failpoint } from './failpoints.ts';
import type { Measured } from './measured.ts';
import type { TrainingPlan } from './plan.ts';

/** Exit codes of the child; anything else, and every signal, is a crash. */
export const EXIT = {
  done: 0,
  crashed: 1,
  userError: 64,
  deviceError: 70,
  handedOver: 75,
  paused: 77,
  orphaned: 76,
} as const;

// ── supervisor → child ──────────────────────────────────────────────────────────────────────────────────────────────

/** First message: read and check the data. No device is opened for it. */
export interface PrepareRequest {
  type: 'prepare';
  modelDir: string;
  /** What learns from the rows: the file's format must be the method's. */
  method: DataMethod;
  trainingPath: string;
  validationPath: string | null;
  /** Public ids of both files, for messages. */
  fileIds: { training_file: string; validation_file: string | null };
  maxLength: number;
  overlong: 'truncate' | 'drop' | 'error';
  minExamples: number;
  failpoints: readonly Failpoint[];
}

/** Second message: train, from the base model or from a checkpoint of this job. */
export interface TrainRequest {
  type: 'train';
  device: DeviceOptions;
  modelDir: string;
  /** Base model's public id, written into the adapter's config. */
  baseModel: string;
  adapter: EffectiveAdapter;
  plan: TrainingPlan;
  /** Folder in which the child makes `ckpt-<step>` folders. */
  checkpointsDir: string;
  /** A verified checkpoint of this job. */
  resumeDir: string | null;
  /** Weights of a tuned model that a fresh training starts from: an adapter or a full model, as `adapter` says. */
  startDir: string | null;
}

/** Save at the next step boundary and leave with EXIT.handedOver. */
export interface StopRequest {
  type: 'stop';
}

/** As stop, but what is saved is a checkpoint for the user; leave with EXIT.paused. */
export interface PauseRequest {
  type: 'pause';
}

/** The checkpoint of this step is in storage and recorded; its folder is the supervisor's to remove. */
export interface CheckpointStored {
  type: 'checkpoint_stored';
  step: number;
}

export type ToChild = PrepareRequest | TrainRequest | StopRequest | PauseRequest | CheckpointStored;

// ── child → supervisor ──────────────────────────────────────────────────────────────────────────────────────────────

export interface DataSummary {
  examples: number;
  tokens: number;
  labelledTokens: number;
  warnings: string[];
}

/** The data is fine. */
export interface Prepared {
  type: 'prepared';
  training: DataSummary;
  validation: DataSummary | null;
}

/** The model is on the device and the loop starts after `step` steps. */
export interface Started {
  type: 'started';
  step: number;
  totalSteps: number;
  device: string;
  trainableParameters: number;
  totalParameters: number;
  estimatedBytes: number;
  recompute: boolean;
}

export interface StepDone {
  type: 'step';
  step: number;
  totalSteps: number;
  epoch: number;
  /** Tokens trained since the job began, all attempts together. */
  trainedTokens: number;
  /** null at step 0, the measurement before training. */
  train:
    | (Measured & { tokensPerSecond: number; learningRate: number; gradNorm: number; etaSeconds: number })
    | null;
  /** One validation batch. */
  validation: Measured | null;
  /** The whole validation file. */
  fullValidation: Measured | null;
}

/** A committed folder, ready to upload. */
export interface CheckpointSaved {
  type: 'checkpoint';
  dir: string;
  step: number;
  kind: 'epoch' | 'state';
  isLast: boolean;
  metrics: Record<string, number>;
}

/** Training has ended; the last checkpoint holds the result. */
export interface Finished {
  type: 'finished';
  step: number;
  trainedTokens: number;
}

/** The job itself is at fault (data, settings, divergence, memory): trying again would end the same way. */
export interface Failed {
  type: 'failed';
  error: { code: string; message: string; param: string | null };
  /** One event each, in front of the error. */
  details: { message: string; data: Record<string, unknown> }[];
}

/** Something the user should know, which does not end the job. */
export interface Warning {
  type: 'warning';
  message: string;
}

/** Long work without steps (reading data, evaluation) goes on; feeds the watchdog. */
export interface Alive {
  type: 'alive';
}

export type FromChild = Prepared | Started | StepDone | CheckpointSaved | Finished | Failed | Warning | Alive;
