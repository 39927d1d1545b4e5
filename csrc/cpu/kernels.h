// What the API layer hands to the kernels: plain structs, and one table of functions per instruction set.
//
// A kernel works on a range of tasks or rows, on plain pointers, with scratch memory handed in (64-byte aligned, size
// by the functions below). It does not allocate, throw, print, lock or start threads.
#pragma once
#include <stdint.h>

namespace regard {

constexpr int64_t kPanel = 16;         // keys in one packed panel
constexpr int64_t kKeyTile = 256;      // keys per score tile of attention, forward
constexpr int64_t kPackedKeys = 1024;  // a history up to this length is packed once, a longer one tile by tile
constexpr int64_t kRowBlock = 48;      // rows scored together against keys or items, or put through a layer
constexpr int64_t kItemTile = 512;     // items per tile of the catalogue
constexpr int64_t kKeyBlock = 128;     // keys per block of the attention backward pass
constexpr int64_t kTimeBuckets = 128;  // of the time bias: more than 2^31 seconds have
constexpr int64_t kPairKeys = 96;      // keys that a query's activation unit takes at a time
constexpr int64_t kPieceRows = 64;     // rows and items that the one-pass cross-entropy takes at a time,
constexpr int64_t kPieceItems = 256;   // and the most pieces of rows in one of its blocks
constexpr int64_t kMaxPieces = 16;
constexpr int64_t kQuantizedPanels = 16;  // panels in a block of the 8-bit item table
constexpr int64_t kQuantizedDim = 16384;  // above it a 32-bit sum could overflow
constexpr int64_t kQuantizedSlice = 256;  // elements of a vector that are quantised at a time

struct Dropout {  // keep with probability 1 - p; see cpu/dropout.h. threshold = p * 2^32, scale = 1 / (1 - p)
  uint32_t threshold;
  float scale;
  uint32_t key[2];
};

struct Attention {
  const float *q, *k, *v;  // (total, n_heads, head_dim)
  float* out;
  double* lse;                 // (total_q, n_heads)
  const int64_t *cu_q, *cu_k;  // (batch + 1)
  int64_t n_heads, head_dim;
  float softmax_scale;
  bool causal, align_start;
  const float* bias;                 // (n_heads, bias_len) by distance, or null
  int64_t bias_len, bias_zero;       // bias_zero: the entry for distance 0
  const float* time_bias;            // (n_heads, n_buckets) by the logarithm of 1 + seconds, or null
  const int64_t *times_q, *times_k;  // whole seconds, (total)
  int64_t n_buckets;
  const Dropout* dropout;  // or null
  float* weights;          // every task's (n_q, n_k) block, at weights_at[task], or null
  const int64_t* weights_at;
  // backward
  const float* dout;
  float *dq, *dk, *dv;
};

struct NewestAttention {    // of one query, see cpu/attention_newest.h
  const float* q;           // (n_heads, head_dim)
  const float* key_panels;  // [n_keys / kPanel][n_heads][head_dim][kPanel], finite after the last key
  const float* values;      // (n_keys, n_heads, head_dim), and kPanel floats more that can be read
  float* out;               // (n_heads, head_dim)
  int64_t n_keys, n_heads, head_dim;
  float softmax_scale;
  const float* bias;  // (n_heads, bias_len) by distance, or null
  int64_t bias_len;
  const float* time_bias;   // (n_heads, n_buckets) by the seconds between query and key, or null
  const int64_t* times_k;   // (n_keys), where there is a time bias
  int64_t n_buckets, time;  // time: of the query
};

struct Beside {                  // logs of what joins the sums of a loss from elsewhere, (n) each; see cpu/pointer.h
  const double *all, *target;    // added to the sum of exp over all items, and to exp of the target's score
  double *whole, *whole_target;  // out: the logs of both with what was added
};

struct CrossEntropy {
  const float* h;          // (n, dim)
  const float* items;      // (n_items, dim)
  const int32_t* targets;  // (n)
  const float* weights;    // (n), already divided by their sum
  double* loss;            // (n), unweighted
  double* lse;             // (n), of the whole sum
  float* dh;               // (n, dim)
  int64_t n_items, dim;
  const Beside* beside;  // or null
  // Or null: the softmax of row i leaves out items seen[begins[i]] to seen[ends[i] - 1], though never its target. Rows
  // of one sequence begin at the same event, and each ends one later than the row before.
  const int32_t* seen;
  const int64_t *begins, *ends;  // (n)
};

struct CrossEntropyBlock : CrossEntropy {  // rows [row_begin, row_end) in pieces; see cpu/cross_entropy_pass.h
  int64_t row_begin, row_end, pieces;
  const void* prepared;  // the catalogue in the form that products want, or null: as it is
  void* p;               // (pieces, items to the next 32, kPieceRows): exp(score - top)
  float* top;            // (tiles of items, pieces, kPieceRows)
  void* scaled;          // per piece scaled_bytes: h times factor, in the form that products want
  int64_t scaled_bytes;
  float *factors, *dtarget;  // (pieces, kPieceRows): of p, and the gradient by the target's score
};

struct CrossEntropyPass {  // value and gradients in one pass, at one precision
  int64_t p_bytes;         // of one probability
  int64_t (*prepared_bytes)(int64_t n_items, int64_t dim);
  void (*prepare)(const float* items, int64_t n_items, int64_t dim, int64_t item_begin, int64_t item_end, void* out);
  void (*rows)(const CrossEntropyBlock&, int64_t piece, float* scratch);
  void (*items)(const CrossEntropyBlock&, int64_t item_begin, int64_t item_end, float* ditems, float* scratch);
};
enum Precision { kHighest = 0, kHigh = 1, kMedium = 2 };

struct Sampled {               // losses over k shared negatives; see cpu/sampled.h
  const float* h;              // (n, dim)
  const float* items;          // (n_items, dim)
  const int32_t* targets;      // (n)
  const int32_t* negatives;    // (k), then -1 to the next panel
  const float* log_expected;   // (k), then +infinity to the next panel
  const float *packed, *rows;  // the vectors of the negatives: in panels, and with row stride round_up(dim, 16)
  double* loss;                // (n)
  float* dtargets;             // (n): gradient by the target's score
  float* dh;                   // (n, dim)
  int64_t n_negatives, dim;
  double row_weight;  // 1 / n
  bool softmax;       // or binary
  float beta;
  const Beside* beside;  // or null; softmax only
};

struct Pointer {                   // a second way for the items of a history to be the answer; see cpu/pointer.h
  const int32_t *items, *targets;  // (n): of each event, and of the one that is foretold from there
  const int64_t* cu_seqlens;       // (batch + 1)
  const float* by_age;             // (n, n_ages)
  int64_t n_ages;
  double *all, *target;  // (n): what forward writes and backward reads
  float row_weight;      // backward
  float* dby_age;        // (n, n_ages): written
};

struct TopK {
  const float *h, *items;
  int64_t n_items, dim, k;
  const int64_t *allow_at, *deny_at;  // offsets, or null
  const int32_t *allow, *deny;        // sorted within a row
  int32_t* out_items;                 // (n, k)
  float* out_scores;
  const uint8_t* quantized;  // the items as 8-bit blocks, or null; see cpu/quantized.h
};

struct RankCounts {
  const float *h, *items;
  int64_t n_items, dim;
  const int64_t *targets_at, *deny_at;  // deny_at may be null
  const int32_t *targets, *deny;        // deny sorted within a row
  int64_t *above, *equal;               // per target
  const int64_t* gains_at;              // or null: items of which exp of the score gains exp(gain), once in a row
  const int32_t* gaining;
  const float* gains;
};

enum Activation { kIdentity = 0, kRelu = 1, kGelu = 2, kSilu = 3, kSigmoid = 4 };

struct LinearMap {
  const float *weight, *bias;  // (n_out, n_in), (n_out) or null
  const float* packed;         // weight in panels: forward only
  float* y;                    // (n, n_out)
  float* saved;                // (n, n_out): before the activation, or null; backward: where the slope is taken
  const float* dy;             // (n, n_out)
};

struct Linear {  // y = dropout(activation(x W^T + b)) + residual, for each map
  const float* x;
  const LinearMap* maps;
  int64_t n_maps, n_in, n_out;
  Activation activation;
  const Dropout* dropout;  // or null
  const float* residual;   // (n, n_out) or null
  float* dx;               // (n, n_in) or null
  bool add_to_dx;          // else written
};

struct Pairs {                 // every query with every key of its sequence; see cpu/pair_scores.h
  const int64_t *cu_q, *cu_k;  // (batch + 1)
  const int64_t* at;           // (batch): where the (n_q, n_k) block of a sequence begins in z
};

struct AdditiveScores : Pairs {
  const float *q, *k, *v;  // (total_q, dim), (total_k, dim), (dim)
  int64_t dim;
  float* z;
  const float* dz;  // backward
  float *dq, *dk;
};

struct ActivationUnit : Pairs {
  const float *q, *k;            // (total, dim)
  const float *q_part, *k_part;  // (total, hidden1): of the first layer
  int64_t dim, hidden1, hidden2;
  Activation activation;
  const float *product_panels, *product_rows;  // (hidden1, dim); the rows with stride to the next panel, for backward
  const float *weight2_panels, *weight2_rows;  // (hidden2, hidden1), likewise
  const float *bias2, *weight3;                // (hidden2), then 0 to the next panel
  float bias3;
  float* z;
  const float* dz;  // backward
  float *dq, *dk, *dq_part, *dk_part;
};

struct WeightedSum : Pairs {
  const float *z, *v;  // (pairs), (total_k, dim)
  int64_t dim;
  bool softmax;  // else z are the weights
  float* out;
  const float* dout;  // backward
  float *dz, *dv;
};

struct SgdStep {
  float learning_rate, momentum, weight_decay, grad_scale;
};

struct AdagradStep {
  float learning_rate, eps, weight_decay, grad_scale;
};

struct AdamStep {
  float learning_rate, beta1, beta2, eps;
  float keep1, keep2;  // 1 - beta, rounded once: 1 - 0.999f is off by 1e-5
  float weight_decay;  // AdamW: multiplies the weight; Adam: added to the gradient
  bool decoupled;
  float correction1, correction2;  // 1 / (1 - beta^t)
  float grad_scale;
};

struct Kernels {
  const char* name;
  void (*pack_panels)(const float* rows, int64_t stride, int64_t n, int64_t depth, float* out);

  void (*attention_forward)(const Attention&, int64_t task_begin, int64_t task_end, float* scratch);
  // dbias, dtime_bias: (n_heads, bias_len), (n_heads, n_buckets) sums of this range of tasks, added to; or null
  void (*attention_backward)(const Attention&, int64_t task_begin, int64_t task_end, double* dbias, double* dtime_bias,
                             float* scratch);
  void (*attention_newest)(const NewestAttention&, float* scratch);  // n_keys floats to the next panel

  void (*cross_entropy_forward)(const CrossEntropy&, int64_t row_begin, int64_t row_end, float* scratch);
  // ditems: rows [item_begin, item_end) belong to the caller of this range; dh: (row_end - row_begin, dim), added to
  void (*cross_entropy_backward)(const CrossEntropy&, int64_t row_begin, int64_t row_end, int64_t item_begin,
                                 int64_t item_end, float* ditems, float* dh, float* scratch);
  CrossEntropyPass cross_entropy[3];  // by Precision

  // dnegatives: (k, dim), added to
  void (*sampled_loss)(const Sampled&, int64_t row_begin, int64_t row_end, float* dnegatives, float* scratch);

  void (*pointer_forward)(const Pointer&, int64_t task_begin, int64_t task_end, float* scratch);
  void (*pointer_backward)(const Pointer&, int64_t task_begin, int64_t task_end, float* scratch);

  void (*topk)(const TopK&, int64_t row_begin, int64_t row_end, float* scratch);
  void (*topk_quantized)(const TopK&, int64_t row_begin, int64_t row_end, float* scratch);  // without allow lists
  void (*quantize_items)(const float* items, int64_t n_items, int64_t dim, uint8_t* table, int64_t block_begin,
                         int64_t block_end);
  void (*rank_counts)(const RankCounts&, int64_t row_begin, int64_t row_end, float* scratch);

  void (*linear_forward)(const Linear&, int64_t row_begin, int64_t row_end);
  // sums: (n_maps, n_out * n_in + n_out), gradients of weight and bias, added to; or null
  void (*linear_backward)(const Linear&, int64_t row_begin, int64_t row_end, float* sums, float* scratch);

  // bias, mean, dbias: null for the RMS norm
  void (*layer_norm_forward)(const float* x, const float* weight, const float* bias, float eps, int64_t dim, float* y,
                             float* mean, float* rstd, int64_t row_begin, int64_t row_end);
  void (*layer_norm_backward)(const float* dy, const float* x, const float* weight, const float* mean,
                              const float* rstd, int64_t dim, float* dx, double* dweight, double* dbias,
                              int64_t row_begin, int64_t row_end);
  decltype(layer_norm_forward) rms_norm_forward;
  decltype(layer_norm_backward) rms_norm_backward;
  void (*activation_forward)(Activation, const float* x, float* y, int64_t begin, int64_t end);
  void (*activation_backward)(Activation, const float* dy, const float* x, float* dx, int64_t begin, int64_t end);
  void (*gate_forward)(Activation, const float* gate, const float* value, float* y, int64_t begin, int64_t end);
  void (*gate_backward)(Activation, const float* dy, const float* gate, const float* value, float* dgate, float* dvalue,
                        int64_t begin, int64_t end);
  void (*embedding_forward)(const float* table, const int32_t* ids, int64_t dim, float scale, float* y,
                            int64_t row_begin, int64_t row_end);
  // in the order of i, for ids in [id_begin, id_end): adds scale * dy[i], times factors[i] if given, to dtable[ids[i]]
  void (*embedding_backward)(const float* dy, const int32_t* ids, int64_t n, int64_t dim, float scale,
                             const float* factors, float* dtable, int64_t id_begin, int64_t id_end);
  // y[bag] += sum of weights[j] * table[ids[j]] over the entries of the bag; and its gradient, for ids in a range
  void (*embedding_bag_forward)(const float* table, const int32_t* ids, const float* weights, const int64_t* offsets,
                                int64_t dim, float* y, int64_t bag_begin, int64_t bag_end);
  void (*embedding_bag_backward)(const float* dy, const int32_t* ids, const float* weights, const int64_t* offsets,
                                 int64_t n_bags, int64_t dim, float* dtable, int64_t id_begin, int64_t id_end);
  void (*dropout)(const Dropout&, const float* x, int64_t width, float* y, int64_t row_begin, int64_t row_end);
  void (*additive_scores_forward)(const AdditiveScores&, int64_t task_begin, int64_t task_end, float* scratch);
  // sums: gradients of the parameters, added to
  void (*additive_scores_backward)(const AdditiveScores&, int64_t task_begin, int64_t task_end, float* sums,
                                   float* scratch);
  void (*activation_unit_forward)(const ActivationUnit&, int64_t task_begin, int64_t task_end, float* scratch);
  void (*activation_unit_backward)(const ActivationUnit&, int64_t task_begin, int64_t task_end, float* sums,
                                   float* scratch);
  void (*weighted_sum_forward)(const WeightedSum&, int64_t task_begin, int64_t task_end, float* scratch);
  void (*weighted_sum_backward)(const WeightedSum&, int64_t task_begin, int64_t task_end, float* scratch);
  void (*sgd)(const SgdStep&, float* weight, const float* grad, float* buffer, int64_t n);  // buffer may be null
  void (*adagrad)(const AdagradStep&, float* weight, const float* grad, float* squares, int64_t n);
  void (*adam)(const AdamStep&, float* weight, const float* grad, float* m, float* v, int64_t n);
  double (*sum_squares)(const float* x, int64_t begin, int64_t end);
};

// Bytes of a block of the 8-bit item table.
static inline int64_t quantized_block(int64_t dim) {
  return kQuantizedPanels * ((dim + 3) / 4 * 4 * kPanel + 3 * static_cast<int64_t>(sizeof(float)));
}

// Floats of scratch memory.
inline int64_t attention_scratch(int64_t dim, int64_t longest) {
  const int64_t wide = (dim + 15) / 16 * 16;
  return 4 * kPackedKeys * wide + 4 * kRowBlock * (kKeyTile + wide) + 4 * (longest + kPackedKeys) + 1024;
}
inline int64_t catalogue_scratch(int64_t dim, int64_t rows) {
  const int64_t wide = (dim + 15) / 16 * 16;
  return 2 * kItemTile * wide + 2 * kRowBlock * (kItemTile + wide) + 8 * rows + 1024;
}
inline int64_t pass_scratch(int64_t dim, int64_t pieces) {
  const int64_t wide = (dim + 31) / 32 * 32;
  return kPieceRows * (wide * (pieces > 4 ? pieces : 4) + 2 * kPieceItems + wide) + 1024;
}
inline int64_t sampled_scratch(int64_t dim, int64_t n_negatives) {
  const int64_t wide = (dim + 15) / 16 * 16, negatives = (n_negatives + 15) / 16 * 16;
  return kRowBlock * (negatives + 4 * wide) + 1024;
}
inline int64_t pointer_scratch(int64_t longest) { return longest + 1024; }
inline int64_t linear_scratch(int64_t n_in, int64_t n_out, int64_t n_maps) {
  const int64_t in = (n_in + 15) / 16 * 16;
  return (in == n_in ? 0 : n_maps * n_out * in) + kRowBlock * (in + n_out) + 1024;
}
inline int64_t additive_scratch(int64_t dim) {
  const int64_t wide = (dim + 15) / 16 * 16;
  return (kKeyTile + 4) * wide + 1024;
}
inline int64_t activation_unit_scratch(int64_t dim, int64_t hidden1, int64_t hidden2) {
  const int64_t wide = (dim + 15) / 16 * 16, wide1 = (hidden1 + 15) / 16 * 16, wide2 = (hidden2 + 15) / 16 * 16;
  return 3 * wide1 * wide + 2 * wide + wide1 + 2 * wide2 + kPairKeys * (2 * wide + 5 * wide1 + 2 * wide2) + 1024;
}
inline int64_t weighted_sum_scratch(int64_t dim) {
  const int64_t wide = (dim + 15) / 16 * 16;
  return kRowBlock * kKeyTile + (kKeyTile + kRowBlock) * wide + 1024;
}

}  // namespace regard
