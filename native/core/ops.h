// EVERY op, forward and backward: the surface that each backend implements and JavaScript sees, in one table.
// The struct is the dispatch table itself: core/ holds one whose entries check their arguments, each instruction
// set of cpu/ holds one whose entries compute. Entries of a backend may assume that the checks have passed.
//
// Legend: T tokens (rows), C channels, N rows or outputs, V vocabulary, H heads (Hq query, Hkv key/value), D head
// size, S sequences, P positions. Tensors are dense row-major. "float" means f32 or bf16, freely mixed; arithmetic
// and statistics are f32. Gradients named "+=" accumulate, all other outputs are overwritten. Outputs must not
// overlap inputs unless "in place" is said: then the same memory is fine, a partial overlap is not.
// No result depends on the number of threads; where a row is computed on its own, it does not depend on the
// other rows either.
#pragma once
#include "tensor.h"

namespace lathe {

using In = const Tensor&;
using Out = const Tensor&;          // the view is const, its data is written
using OptionalIn = const Tensor*;   // null: absent
using OptionalOut = const Tensor*;  // null: not wanted

struct Ops {
  // ---- elementwise; any shape, equal element counts, in place unless said ----

  /// x = value. x float or i32 (value must then be an integer).
  void (*fill)(Out x, double value);
  /// dst = src, bytes. Equal types, or u8 on one side; equal byte counts. Not in place.
  void (*copy)(Out dst, In src);
  /// dst = src with conversion between f32 and bf16 (round to nearest even). In place only for equal types.
  void (*cast)(Out dst, In src);
  /// out = a + b.
  void (*add)(Out out, In a, In b);
  /// y += alpha·x.
  void (*axpy)(Out y, float alpha, In x);
  /// y *= alpha.
  void (*scale)(Out y, float alpha);
  /// y[t,c] += b[c]; y [T,C], b [C].
  void (*addBias)(Out y, In b);
  /// Backward of addBias: db[c] += Σ_t dy[t,c]; db f32 [C], dy [T,C].
  void (*biasBackward)(Out db, In dy);

  // ---- reductions ----

  /// Σ x², in f64 over fixed chunks of 4096 elements. For the global norm of gradients.
  double (*sumSquares)(In x);
  /// Whether any element is NaN or ±inf.
  bool (*hasNonFinite)(In x);

  // ---- random numbers: Philox4x32-10, see philox.h; a pure function of (seed, stream, element index) ----

  /// y = keep(i) ? x/(1−p) : 0 with keep(i) = word_i ≥ p·2³²; 0 ≤ p < 1. Srivastava et al., JMLR 15 (2014).
  void (*dropoutForward)(Out y, In x, float p, uint64_t seed, uint64_t stream);
  /// Forward was y = mask·x/(1−p), so dx = mask·dy/(1−p) with the same mask from (seed, stream).
  void (*dropoutBackward)(Out dx, In dy, float p, uint64_t seed, uint64_t stream);
  /// x uniform in [lo, hi): lo + (hi−lo)·(word >> 8)·2⁻²⁴.
  void (*randomUniform)(Out x, float lo, float hi, uint64_t seed, uint64_t stream);
  /// x normal, by Box–Muller on word pairs (0,1) and (2,3) of each block.
  void (*randomNormal)(Out x, float mean, float std, uint64_t seed, uint64_t stream);

  // ---- linear algebra ----

  /// C = alpha·op(A)·op(B) + beta·C; C [M,N], op(A) [M,K], op(B) [K,N], op = transpose when the flag is set.
  /// Both bf16: products of bf16 pairs accumulated in f32 (vdpbf16ps where the CPU has it); else f32.
  /// With AMX an f32 A beside a bf16 B counts with 17 significant bits (cpu/gemm_tiles.cc). C is not
  /// read when beta = 0. Each element sums over k in one order that depends on nothing but K.
  void (*gemm)(Out c, In a, In b, bool transA, bool transB, float alpha, float beta);
  /// W [N,K] float → panels of 32 rows in the order gemmPacked reads them; packed: u8 [packed_bytes(W)].
  void (*packWeight)(Out packed, In w);
  /// W [N,K] float → the same with numbers q of int8 and a scale for each row of W: scale_n = max_k |W[n,k]| / 127,
  /// q = W/scale_n rounded to the nearest (ties to even). packed: u8 [packed_int8_bytes(W)]. K ≤ 2¹⁷; on the CPU only.
  void (*packWeightInt8)(Out packed, In w);
  /// C = alpha·A·Wᵀ + beta·C; C [M,N], A [M,K]; bit for bit what gemm(c, a, w, false, true) gives. With int8:
  /// step_m·scale_n·Σ_k p·q with p = A/step_m rounded to the nearest (ties to even), step_m = max_k |A[m,k]| / 32,639; the
  /// sum is exact, rounded once to f32, and multiplied with scale_n, then step_m. A row that is not finite gives NaN.
  void (*gemmPacked)(Out c, In a, In packed, float alpha, float beta);

  /// Linear layers on the same rows with a low-rank branch each (Hu et al., arXiv:2106.09685): h = xa·Aᵀ with
  /// xa = dropped ?? x; y_i = x·w_iᵀ (+ bias_i) + scale_i·h_i·b_iᵀ. The A of all layers lie stacked: a [R,K] with
  /// R = Σ r_i in the order of the layers, h f32 [T,R], h_i its columns of layer i; b_i [N_i,r_i] or null (r_i = 0: no
  /// branch), at least one of them given. x, dropped [T,K], w_i [N_i,K], y_i [T,N_i], bias_i [N_i]. Layers 1 and 2 may be
  /// absent.
  void (*loraLinearForward)(Out y0, OptionalOut y1, OptionalOut y2, Out h, In x, OptionalIn dropped, In w0, OptionalIn w1,
                            OptionalIn w2, OptionalIn bias0, OptionalIn bias1, OptionalIn bias2, In a, OptionalIn b0,
                            OptionalIn b1, OptionalIn b2, float scale0, float scale1, float scale2);
  /// With dh_i = scale_i·dy_i·b_i: db_i += scale_i·dy_iᵀ·h_i, da += dhᵀ·xa; without `dropped`
  /// dx = beta·dx + Σ dy_i·w_i + dh·A, with it dx = beta·dx + Σ dy_i·w_i and ddropped = dh·A (its mask is the
  /// caller's). da f32 [R,K], db_i f32 [N_i,r_i]; dx, ddropped [T,K] or null: not wanted. beta is 0 (dx not read) or 1.
  /// For dx an f32 dy beside bf16 weights may be rounded to bf16 once.
  void (*loraLinearBackward)(OptionalOut dx, OptionalOut ddropped, Out da, OptionalOut db0, OptionalOut db1,
                             OptionalOut db2, In dy0, OptionalIn dy1, OptionalIn dy2, In x, OptionalIn dropped, In h,
                             In w0, OptionalIn w1, OptionalIn w2, In a, OptionalIn b0, OptionalIn b1, OptionalIn b2,
                             float scale0, float scale1, float scale2, float beta);

  // ---- rows ----

  /// out[t] = weight[ids[t]]; out [T,C], weight [V,C], ids i32 [T] in [0,V).
  void (*embeddingForward)(Out out, In weight, In ids);
  /// dw[ids[t]] += dout[t], in the order of t; dw f32 [V,C].
  void (*embeddingBackward)(Out dw, In dout, In ids);
  /// out[i] = x[rows[i]]; out [N,C], x [T,C], rows i32 [N] in [0,T).
  void (*gatherRows)(Out out, In x, In rows);
  /// Backward of gatherRows: dx[rows[i]] += dout[i]; dx [T,C], dout [N,C], rows distinct.
  void (*scatterAddRows)(Out dx, In dout, In rows);

  // ---- RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) ----

  /// rstd[t] = 1/√(mean_c x² + eps); y = x·rstd·w; x, y [T,C], w [C], rstd f32 [T]. In place.
  void (*rmsNormForward)(Out y, Out rstd, In x, In w, float eps);
  /// Forward was y = x̂·w, x̂ = x·rstd, so with g = dy·w: dx = rstd·(g − x̂·mean_c(g·x̂)) (+ dres),
  /// dw[c] += Σ_t dy·x̂. dw f32 [C] or null; dres [T,C] or null: the gradient that bypasses the norm.
  /// dx may be dy or dres.
  void (*rmsNormBackward)(Out dx, OptionalOut dw, In dy, In x, In w, In rstd, OptionalIn dres);
  /// z = x + delta (rounded to z's type); y = rmsnorm(z)·w; rstd as above. z may be x or delta.
  void (*addRmsNormForward)(Out y, Out z, Out rstd, In x, In delta, In w, float eps);

  // ---- rotary position embedding (Su et al., arXiv:2104.09864), half-split as in Hugging Face's rotate_half,
  //      with Qwen3's per-head RMSNorm before it when w is given ----

  /// Per head h of row t: u = w ? x·rstd·w : x; y₁ = u₁·cos − u₂·sin, y₂ = u₂·cos + u₁·sin where ₁,₂ are the
  /// halves and cos, sin are row positions[t]. x, y [T,H·D]; w [D] or null; rstd f32 [T,H] or null (not kept);
  /// cos, sin f32 [P,D/2]; positions i32 [T] in [0,P). D even. In place.
  void (*qkNormRopeForward)(Out y, OptionalOut rstd, In x, OptionalIn w, In cos, In sin, In positions,
                            int64_t headDim, float eps);
  /// Forward was y = R·u, so du = Rᵀ·dy; then through the norm as in rmsNormBackward, per head. dw f32 [D] or
  /// null; x and rstd are needed with w only. dx may be dy.
  void (*qkNormRopeBackward)(Out dx, OptionalOut dw, In dy, OptionalIn x, OptionalIn w, OptionalIn rstd, In cos,
                             In sin, In positions, int64_t headDim);

  // ---- attention: causal, grouped-query, sequences laid end to end; online softmax (Milakov & Gimelshein,
  //      arXiv:1805.02867) in key blocks as FlashAttention-2 (Dao, arXiv:2307.08691); no T×T buffer ----

  /// out[i] = Σ_j p_ij·v_j, p = softmax_j(scale·q_i·k_j) over j ≤ i of the same sequence (and j > i − window when
  /// window > 0); lse[h,i] = log Σ_j exp(scale·q_i·k_j). q, out [T,Hq·D]; k, v [T,Hkv·D]; query head h uses key
  /// head h / (Hq/Hkv); lse f32 [Hq,T]; cuSeqlens i32 [S+1] from 0 to T, not decreasing. D ≤ 512.
  void (*attentionForward)(Out out, Out lse, In q, In k, In v, In cuSeqlens, int64_t headDim, float scale,
                           int64_t window);
  /// With p_ij = exp(scale·q_i·k_j − lse_i), dp_ij = dout_i·v_j, δ_i = dout_i·out_i: ds = p·(dp − δ)·scale,
  /// dq_i = Σ_j ds_ij·k_j, dk_j = Σ_i ds_ij·q_i, dv_j = Σ_i p_ij·dout_i (sums over the query heads of a group).
  void (*attentionBackward)(Out dq, Out dk, Out dv, In dout, In out, In lse, In q, In k, In v, In cuSeqlens,
                            int64_t headDim, float scale, int64_t window);
  /// kCache[slots[t]] = k[t], vCache[slots[t]] = v[t]; caches [rows,Hkv·D], k, v [T,Hkv·D], slots i32 [T]
  /// distinct, in [0,rows).
  void (*kvWrite)(Out kCache, Out vCache, In k, In v, In slots);
  /// attentionForward over a paged cache: sequence s has contextLens[s] keys, key j at cache row
  /// blockTables[s, j/blockSize]·blockSize + j%blockSize; its queries are rows cuSeqlensQ[s]…cuSeqlensQ[s+1] of q
  /// and are the last positions of the context. On the CPU the same sums in the same order as attentionForward.
  /// blockTables i32 [S,maxBlocks] (entries beyond the context are not looked at), contextLens i32 [S].
  void (*pagedAttentionForward)(Out out, In q, In kCache, In vCache, In blockTables, In cuSeqlensQ,
                                In contextLens, int64_t blockSize, int64_t headDim, float scale, int64_t window);

  // ---- SwiGLU (Shazeer, arXiv:2002.05202) ----

  /// y = silu(gate)·up, silu(a) = a·σ(a), σ(a) = 1/(1+e^−a). In place.
  void (*swigluForward)(Out y, In gate, In up);
  /// Forward was y = g·σ(g)·u, so du = dy·g·σ(g), dg = dy·u·σ(g)·(1 + g·(1−σ(g))). dgate and dup may be
  /// gate, up or dy, each at most once.
  void (*swigluBackward)(Out dgate, Out dup, In dy, In gate, In up);

  // ---- loss ----

  /// Head and cross-entropy without storing the logits: rows of x in chunks, logits = x·wᵀ in f32.
  /// losses[i] = log Σ_v exp(logit_v) − logit_target; correct[i] = (first argmax = target).
  /// With g_i = (softmax − onehot)·gradScale·rowScale_i: dx = g·w, dw += gᵀ·x. x [N,C], w [V,C], targets i32 [N]
  /// in [0,V), rowScale f32 [N] or null (all 1; it scales the gradient alone), losses f32 [N], correct i32 [N],
  /// dx [N,C] or null, dw f32 [V,C] or null. Where x and w are bf16, g is rounded to bf16 for the two products; where
  /// only w is, it may be for dx.
  void (*linearCrossEntropy)(Out losses, Out correct, OptionalOut dx, OptionalOut dw, In x, In w, In targets,
                             OptionalIn rowScale, float gradScale);

  // ---- optimizer ----

  /// AdamW (Loshchilov & Hutter, arXiv:1711.05101), all f32, equal element counts: g' = g·gradScale;
  /// p −= lr·weightDecay·p; m = β₁m + (1−β₁)g'; v = β₂v + (1−β₂)g'²;
  /// p −= lr/(1−β₁^step) · m / (√v/√(1−β₂^step) + eps). step ≥ 1.
  void (*adamwStep)(Out p, Out m, Out v, In g, double lr, double beta1, double beta2, double eps,
                    double weightDecay, int64_t step, float gradScale);
  // ---- serving: what a decode step would otherwise need many launches or the host for ----

  /// Up to three linear layers on the same rows, every row with its own low-rank adapter (Hu et al.,
  /// arXiv:2106.09685; several in one batch as in Chen et al., arXiv:2310.18547): y_i = x·w_iᵀ (+ bias_i), and where
  /// slots[t] = s ≥ 0, y_i[t] += scale·(x[t]·Aᵀ)·Bᵀ with {A, B, rank, bits of scale} = table[s,i]: A [rank,K] and
  /// B [N_i,rank] begin at elements 8·A and 8·B of pool. Rank is a multiple of 8 (pad with zeros) up to 256; 0: the
  /// adapter leaves the layer alone. Sums in f32; a new adapter is new data in pool and table, nothing else.
  /// x [T,K], w_i [N_i,K], y_i [T,N_i], bias_i [N_i], pool [E] float; table i32 [slots,layers,4], slots i32 [T].
  /// On the CPU w_i may also be what packWeight or packWeightInt8 made of it.
  /// Layers 1 and 2 may be absent; pool, table and slots are absent together.
  void (*linearGroup)(Out y0, OptionalOut y1, OptionalOut y2, In x, In w0, OptionalIn w1, OptionalIn w2,
                      OptionalIn bias0, OptionalIn bias1, OptionalIn bias2, OptionalIn pool, OptionalIn table,
                      OptionalIn slots);
  /// The next token of every row of logits f32 [N,V], of which the first `vocabulary` columns can be said; the same
  /// token on every device (integer masses, see sampling.h). First the logits are adjusted in place: −inf where the
  /// row's mask has no bit, − (count·frequency + presence) where counted, + bias. Then greedy (the lowest id of the
  /// largest) when temperature or topP is 0; else a draw from softmax(logits/temperature) over the topK best
  /// (0: all), of these the smallest set of best ones that holds topP of their mass (ties: lower id), walked by id
  /// with number `step` of the stream (seed, stream). floats f32 [N,4] = {temperature, topP, frequency, presence};
  /// ints i32 [N,8] = {topK, seed low, seed high, stream low, stream high, step, row of counts, row of mask} with −1
  /// for no row. tokens i32 [N]: −1 where the row holds NaN or no finite peak, −2 where its mask leaves nothing.
  /// logprobs f32 [N,1+K] and topTokens i32 [N,K] (together or null): log softmax of the adjusted logits, of the token
  /// and of the K best (ties: lower id). biasOffsets i32 [N+1], biasTokens i32 [B] (distinct in a row), biasValues f32 [B]: together or null.
  /// counts i32 [rows,V], to which the token is added; mask i32 [rows,⌈vocabulary/32⌉], bit id%32 of word id/32.
  void (*sampleTokens)(Out tokens, OptionalOut logprobs, OptionalOut topTokens, Out logits, In floats, In ints,
                       OptionalIn biasOffsets, OptionalIn biasTokens, OptionalIn biasValues, OptionalOut counts,
                       OptionalIn mask, int64_t vocabulary);
};

/// Header in front of packed panels; the panels follow at byte 64.
struct PackedHeader {
  uint64_t magic;
  int64_t n, k;
  DType dtype;  // u8: int8 numbers, behind a scale f32 for every row of every panel
};
static constexpr uint64_t kPackedMagic = 0x31304B435048544Cull;
static constexpr int64_t kPackedHeaderBytes = 64;
static constexpr int64_t kPanelWidth = 32;  // rows of W per panel; the same for every instruction set
static constexpr int64_t kInt8Fill = 64;    // K of int8 is filled up with zeros to a multiple of this
static constexpr int64_t kInt8MostDepth = int64_t{1} << 17;  // longer sums of bytes could leave int32

/// Bytes of packWeight's result: rows rounded up to a panel, K of bf16 to a pair. Throws when the size overflows.
int64_t packed_bytes(In w);
/// Bytes of packWeightInt8's result.
int64_t packed_int8_bytes(In w);

/// The table whose entries check every argument (count and kinds are the binding's) and then run the op on the
/// device of its tensors.
const Ops& checked_ops();

}  // namespace lathe
