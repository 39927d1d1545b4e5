// The C functions behind the Python module that are no public ABI: training kernels. Same rules as regard.h: everything
// is checked, errors come back as a status, no exception leaves. Gradients are added into the arrays that are given.
#pragma once
#include "regard.h"

extern "C" {

typedef struct regard_dropout {  // p in [0, 1); an element's fate depends on (seed, step, site) and its place alone
  double p;
  uint64_t seed, step, site;
} regard_dropout;

typedef struct regard_attention_training {
  regard_attention base;
  const regard_dropout* dropout;  // on the weights, or NULL
  float* weights;                 // forward, or NULL: blocks of (n_heads, n_q, n_k), one sequence after another
  const float* dout;              // backward
  float *dq, *dk, *dv;            // written, not added to
  float* dbias;                   // (n_heads, bias_len) or NULL
  // Added to the scores: time_bias[bucket], with x = 1 + max(times_q[i] - times_k[j], 0) in float32 and bucket =
  // min(floor of the bits of x above those of 1.0f, in quarters of a doubling, n_buckets - 1); 2^31 seconds at the
  // most.
  const float* time_bias;            // (n_heads, n_buckets) or NULL
  int64_t n_buckets;                 // 1 to 128
  const int64_t *times_q, *times_k;  // whole seconds: (cu_seqlens_q[batch]), (cu_seqlens_k[batch])
  float* dtime_bias;                 // (n_heads, n_buckets) or NULL
} regard_attention_training;

typedef struct regard_cross_entropy {
  const float* h;             // (n, dim)
  const float* item_vectors;  // (n_items, dim)
  const int32_t* targets;     // (n)
  const float* row_weights;   // (n) or NULL: all 1
  int64_t n, n_items, dim;
  double* lse;  // (n)
  double loss;  // out: weighted mean; 0 where the weights sum to 0
  double dloss;
  int precision;  // of value_and_grad: 0 highest, 1 high, 2 medium
  float *dh, *ditem_vectors;
  // Of value_and_grad: histories, rows of item_vectors (seen_offsets[batch]), or NULL. The last events of a history are
  // at the rows of its sequence; a row's softmax leaves out the items up to its own event, though never its target.
  const int32_t* seen;
  const int64_t *seen_offsets, *cu_seqlens;  // (batch + 1), the last of cu_seqlens n
  int64_t batch;
} regard_cross_entropy;

REGARD_API regard_status regard_attention_training_forward(const regard_attention_training*);
REGARD_API regard_status regard_attention_training_backward(const regard_attention_training*);

REGARD_API regard_status regard_cross_entropy_forward(regard_cross_entropy*);
REGARD_API regard_status regard_cross_entropy_backward(regard_cross_entropy*);
REGARD_API regard_status regard_cross_entropy_value_and_grad(regard_cross_entropy*);

typedef struct regard_sampled_loss {
  const float* h;             // (n, dim)
  const float* item_vectors;  // (n_items, dim)
  const int32_t* targets;     // (n)
  const int32_t* negatives;   // (n_negatives), 1 to 16384, shared by all rows
  const float* log_expected;  // (n_negatives) or NULL: all 0; softmax only
  int64_t n, n_items, dim, n_negatives;
  int binary;   // 0: softmax
  double beta;  // binary only, else 1
  double loss;  // out: mean
  float *dh, *ditem_vectors;
} regard_sampled_loss;

REGARD_API regard_status regard_sampled_loss_value_and_grad(regard_sampled_loss*);

// Either loss, where items of the history have a second way to be the answer: event k of a sequence adds, from its own
// place on, exp(by_age[t][t - k]) to exp of its item's score. Row t is the place of event t.
typedef struct regard_pointer {
  const int32_t* items;       // (n): of the events, rows of item_vectors
  const int64_t* cu_seqlens;  // (batch + 1), the last n
  int64_t batch;
  const float* by_age;  // (n, n_ages)
  int64_t n_ages;       // at least the length of the longest sequence
  float* dby_age;       // (n, n_ages), written
} regard_pointer;
// One of full and sampled, without row_weights and not binary; the other is NULL.
REGARD_API regard_status regard_pointer_loss_value_and_grad(const regard_pointer*, regard_cross_entropy* full,
                                                            regard_sampled_loss* sampled);

// above, equal: per target, without denied items and the target itself. Offsets (n + 1). gaining: items of each row,
// once each, of which exp of the score gains exp(gains); or NULL.
REGARD_API regard_status regard_rank_counts(const float* h, const float* item_vectors, int64_t n, int64_t n_items,
                                            int64_t dim, const int64_t* target_offsets, const int32_t* targets,
                                            const int64_t* deny_offsets, const int32_t* deny,
                                            const int64_t* gain_offsets, const int32_t* gaining, const float* gains,
                                            int64_t* above, int64_t* equal);

// activation: 0 none, 1 relu, 2 gelu, 3 silu, 4 sigmoid
typedef struct regard_linear_map {
  const float *weight, *bias;  // (n_out, n_in), (n_out) or NULL
  float* y;                    // (n, n_out)
  float* saved;            // (n, n_out): before the activation, or NULL; backward: that, or for relu y without residual
  const float* dy;         // backward
  float *dweight, *dbias;  // each may be NULL
} regard_linear_map;

typedef struct regard_linear {  // y = dropout(activation(x W^T + b)) + residual, for each map
  const float* x;               // (n, n_in)
  int64_t n, n_in, n_out, n_maps;
  const regard_linear_map* maps;
  int activation;
  const regard_dropout* dropout;  // or NULL; the same places for each map
  const float* residual;          // (n, n_out) or NULL; forward only
  float* dx;                      // (n, n_in) or NULL
  int add_to_dx;                  // else it is written
} regard_linear;

REGARD_API regard_status regard_linear_forward(const regard_linear*);
REGARD_API regard_status regard_linear_backward(const regard_linear*);
REGARD_API regard_status regard_activation_forward(int activation, const float* x, int64_t n, float* y);
REGARD_API regard_status regard_activation_backward(int activation, const float* dy, const float* x, int64_t n,
                                                    float* dx);
// y = activation(gate) * value
REGARD_API regard_status regard_gate_forward(int activation, const float* gate, const float* value, int64_t n,
                                             float* y);
REGARD_API regard_status regard_gate_backward(int activation, const float* dy, const float* gate, const float* value,
                                              int64_t n, float* dgate, float* dvalue);
REGARD_API regard_status regard_layer_norm_forward(const float* x, const float* weight, const float* bias, double eps,
                                                   int64_t n, int64_t dim, float* y, float* mean, float* rstd);
REGARD_API regard_status regard_layer_norm_backward(const float* dy, const float* x, const float* weight,
                                                    const float* mean, const float* rstd, int64_t n, int64_t dim,
                                                    float* dx, float* dweight, float* dbias);
REGARD_API regard_status regard_rms_norm_forward(const float* x, const float* weight, double eps, int64_t n,
                                                 int64_t dim, float* y, float* rstd);
REGARD_API regard_status regard_rms_norm_backward(const float* dy, const float* x, const float* weight,
                                                  const float* rstd, int64_t n, int64_t dim, float* dx, float* dweight);
REGARD_API regard_status regard_embedding_forward(const float* table, const int32_t* ids, int64_t n, int64_t n_ids,
                                                  int64_t dim, double scale, float* y);
REGARD_API regard_status regard_embedding_backward(const float* dy, const int32_t* ids, int64_t n, int64_t n_ids,
                                                   int64_t dim, double scale, float* dtable);
// Both add: y (n_bags, dim) += weighted sums of rows of table; dtable += their gradient. offsets (n_bags + 1)
REGARD_API regard_status regard_embedding_bag_forward(const float* table, const int32_t* ids, const float* weights,
                                                      const int64_t* offsets, int64_t n_bags, int64_t n_ids,
                                                      int64_t dim, float* y);
REGARD_API regard_status regard_embedding_bag_backward(const float* dy, const int32_t* ids, const float* weights,
                                                       const int64_t* offsets, int64_t n_bags, int64_t n_ids,
                                                       int64_t dim, float* dtable);
REGARD_API regard_status regard_dropout_apply(const regard_dropout*, const float* x, int64_t n, int64_t width,
                                              float* y);

typedef struct regard_pairs {  // every query with every key of its sequence; z: blocks (n_q, n_k), one after another
  const int64_t *cu_seqlens_q, *cu_seqlens_k;  // (batch + 1)
  int64_t batch;
} regard_pairs;

typedef struct regard_additive_scores {  // z[i][j] = v·tanh(q[i] + k[j])
  regard_pairs pairs;
  const float *q, *k, *v;  // (total_q, dim), (total_k, dim), (dim)
  int64_t dim;
  float* z;
  const float* dz;  // backward
  float *dq, *dk;   // written
  float* dv;        // added to
} regard_additive_scores;
REGARD_API regard_status regard_additive_scores_forward(const regard_additive_scores*);
REGARD_API regard_status regard_additive_scores_backward(const regard_additive_scores*);

// z[i][j] = weight3·act(weight2 act(q_part[i] + k_part[j] + product (q[i] * k[j])) + bias2) + bias3
typedef struct regard_activation_unit {
  regard_pairs pairs;
  const float *q, *k;            // (total, dim)
  const float *q_part, *k_part;  // (total, hidden1)
  int64_t dim, hidden1, hidden2;
  int activation;
  const float *product, *weight2, *bias2, *weight3;  // (hidden1, dim), (hidden2, hidden1), (hidden2), (hidden2)
  float bias3;
  float* z;
  const float* dz;                                 // backward
  float *dq, *dk, *dq_part, *dk_part;              // written
  float *dproduct, *dweight2, *dbias2, *dweight3;  // added to
} regard_activation_unit;
REGARD_API regard_status regard_activation_unit_forward(const regard_activation_unit*);
REGARD_API regard_status regard_activation_unit_backward(const regard_activation_unit*);

typedef struct regard_weighted_sum {  // out[i] = sum_j a[i][j] v[j], a = softmax of z over j, or z
  regard_pairs pairs;
  const float *z, *v;  // (pairs), (total_k, dim)
  int64_t dim;
  int softmax;
  float* out;         // (total_q, dim)
  const float* dout;  // backward
  float *dz, *dv;     // written
} regard_weighted_sum;
REGARD_API regard_status regard_weighted_sum_forward(const regard_weighted_sum*);
REGARD_API regard_status regard_weighted_sum_backward(const regard_weighted_sum*);

typedef struct regard_rows {  // the rows of a weight (n_rows, width), and of its state, that a step changes
  const int32_t* rows;        // (n), strictly rising, or NULL: all rows. The gradient is (n, width) or (n_rows, width)
  int64_t n, n_rows, width;
} regard_rows;

typedef struct regard_sgd {
  double learning_rate, momentum, weight_decay, grad_scale;
} regard_sgd;
// buffer: NULL without momentum
REGARD_API regard_status regard_sgd_step(const regard_sgd*, const regard_rows*, float* weight, const float* grad,
                                         float* buffer);

typedef struct regard_adagrad {
  double learning_rate, eps, weight_decay, grad_scale;
} regard_adagrad;
REGARD_API regard_status regard_adagrad_step(const regard_adagrad*, const regard_rows*, float* weight,
                                             const float* grad, float* squares);

typedef struct regard_adam {
  double learning_rate, beta1, beta2, eps, weight_decay, grad_scale;
  int decoupled;  // AdamW
  int64_t step;   // 1, 2, ...
} regard_adam;
REGARD_API regard_status regard_adam_step(const regard_adam*, const regard_rows*, float* weight, const float* grad,
                                          float* m, float* v);
REGARD_API regard_status regard_sum_squares(const float* x, int64_t n, double* sum);

}  // extern "C"
