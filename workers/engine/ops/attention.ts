/**
 * Causal grouped-query attention. Packed (training, evaluation): sequences lie end to end and cu_seqlens marks their
 * bounds, so there is no padding and no mask tensor. Paged (serving): keys and values lie in cache blocks.
 * q, out [T, Hq·D]; k, v [T, Hkv·D]; lse f32 [Hq, T]; query head h reads key/value head ⌊h·Hkv/Hq⌋.
 */
import { type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';

export interface AttentionShape {
  headDim: number;
  /** Factor on q·k, normally 1/√D. */
  scale: number;
  /** A token sees itself and the window−1 before it; 0 = everything before it. */
  window: number;
}

/** Saves q, k, v, out and lse; scores are computed again in the backward (FlashAttention-2, arXiv:2307.08691). */
export function packedAttention(
  tape: Tape | null,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  cuSeqlens: Tensor,
  { headDim, scale, window }: AttentionShape,
): Tensor {
  const { native } = q.device;
  const tokens = q.dim(0);
  const out = Tensor.empty(q.device, q.shape, q.dtype);
  const lse = Tensor.empty(q.device, [q.dim(1) / headDim, tokens], 'f32');
  const [qh, kh, vh, bounds] = [q.handle, k.handle, v.handle, cuSeqlens.handle];
  native.attentionForward(out.handle, lse.handle, qh, kh, vh, bounds, headDim, scale, window);
  if (tracks(tape, q, k, v)) {
    tape.record([out], [q, k, v, out, lse], ([dout]) => {
      // forward: out = softmax(scale·q·kᵀ)·v within each sequence, lse = log Σ exp of each row's scores
      const dq = Tensor.empty(q.device, q.shape, q.dtype);
      const dk = Tensor.empty(k.device, k.shape, k.dtype);
      const dv = Tensor.empty(v.device, v.shape, v.dtype);
      native.attentionBackward(
        dq.handle,
        dk.handle,
        dv.handle,
        dout!.handle,
        out.handle,
        lse.handle,
        qh,
        kh,
        vh,
        bounds,
        headDim,
        scale,
        window,
      );
      tape.give(q, dq);
      tape.give(k, dk);
      tape.give(v, dv);
    });
  }
  return out;
}

/** Where the new tokens' keys and values go, and where each sequence's earlier ones are. */
export interface PagedLayout {
  /** i32 [S, maxBlocks] block numbers of each sequence. */
  blockTables: Tensor;
  /** i32 [S+1] bounds of the new tokens of each sequence. */
  cuSeqlensQ: Tensor;
  /** i32 [S] tokens of each sequence, the new ones included. */
  contextLens: Tensor;
  /** i32 [T] cache row of each new token. */
  slots: Tensor;
  blockSize: number;
}

/** Writes k and v into the cache [rows, Hkv·D], then attends over it. Not differentiable. */
export function pagedAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  kCache: Tensor,
  vCache: Tensor,
  layout: PagedLayout,
  { headDim, scale, window }: AttentionShape,
): Tensor {
  const { native } = q.device;
  native.kvWrite(kCache.handle, vCache.handle, k.handle, v.handle, layout.slots.handle);
  const out = Tensor.empty(q.device, q.shape, q.dtype);
  native.pagedAttentionForward(
    out.handle,
    q.handle,
    kCache.handle,
    vCache.handle,
    layout.blockTables.handle,
    layout.cuSeqlensQ.handle,
    layout.contextLens.handle,
    layout.blockSize,
    headDim,
    scale,
    window,
  );
  return out;
}
