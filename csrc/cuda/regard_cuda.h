/* The operations of regard.h and api/training.h on the memory of a CUDA device: the same argument structs, whose
 * pointers are device pointers where a function here does not say otherwise.
 *
 * One device, the current one, and its default stream. What a function computes is complete when the next
 * regard_cuda_copy to the host returns. Contents of index arrays are not checked: an id outside its table is read. The
 * same arguments give the same bits. Everything is float32. */
#ifndef REGARD_CUDA_H
#define REGARD_CUDA_H

#include "api/training.h"

#ifdef __cplusplus
extern "C" {
#endif

REGARD_API const char* regard_cuda_last_error(void); /* of the calling thread */

/* REGARD_UNAVAILABLE where there is no device that can be used. name: (size) bytes, the device's. */
REGARD_API regard_status regard_cuda_device(char* name, int64_t size);
REGARD_API regard_status regard_cuda_allocate(size_t bytes, void** memory);
REGARD_API regard_status regard_cuda_free(void* memory);
/* Between host and device, or on either, after all that was asked for before. */
REGARD_API regard_status regard_cuda_copy(void* to, const void* from, size_t bytes);
REGARD_API regard_status regard_cuda_zero(void* memory, size_t bytes);

/* Without weights and time_bias; head_dim at most 256. dbias is added to, dq, dk, dv are written. total_q, total_k: the
 * last offsets, which the host cannot read. */
REGARD_API regard_status regard_cuda_attention_forward(const regard_attention_training*, int64_t total_q);
REGARD_API regard_status regard_cuda_attention_backward(const regard_attention_training*, int64_t total_q,
                                                        int64_t total_k);

/* dim at most 256. Forward: loss and lse. Backward: from lse, adds to dh and ditem_vectors. */
REGARD_API regard_status regard_cuda_cross_entropy_forward(regard_cross_entropy*);
REGARD_API regard_status regard_cuda_cross_entropy_backward(const regard_cross_entropy*);

/* Entries of allow and deny rise strictly within a row. Not quantized. */
REGARD_API regard_status regard_cuda_topk(const regard_topk_args*);
/* For n targets, rows[i] of h each; deny rises strictly within a row of h. above, equal: (n) int64 */
REGARD_API regard_status regard_cuda_rank_counts(const float* h, const float* item_vectors, int64_t n_items,
                                                 int64_t dim, const int32_t* targets, const int32_t* rows, int64_t n,
                                                 const int64_t* deny_offsets, const int32_t* deny, int64_t* above,
                                                 int64_t* equal);

/* maps and dropout: structs on the host. */
REGARD_API regard_status regard_cuda_linear_forward(const regard_linear*);
REGARD_API regard_status regard_cuda_linear_backward(const regard_linear*);
REGARD_API regard_status regard_cuda_activation_forward(int activation, const float* x, int64_t n, float* y);
REGARD_API regard_status regard_cuda_activation_backward(int activation, const float* dy, const float* x, int64_t n,
                                                         float* dx);
REGARD_API regard_status regard_cuda_gate_forward(int activation, const float* gate, const float* value, int64_t n,
                                                  float* y);
REGARD_API regard_status regard_cuda_gate_backward(int activation, const float* dy, const float* gate,
                                                   const float* value, int64_t n, float* dgate, float* dvalue);
REGARD_API regard_status regard_cuda_dropout(const regard_dropout*, const float* x, int64_t n, int64_t width, float* y);
REGARD_API regard_status regard_cuda_add(const float* x, const float* y, int64_t n, float* sum); /* may be x or y */

/* bias, mean, dbias: NULL for the RMS norm. dx, dweight, dbias are added to. */
REGARD_API regard_status regard_cuda_norm_forward(const float* x, const float* weight, const float* bias, double eps,
                                                  int64_t n, int64_t dim, float* y, float* mean, float* rstd);
REGARD_API regard_status regard_cuda_norm_backward(const float* dy, const float* x, const float* weight,
                                                   const float* mean, const float* rstd, int64_t n, int64_t dim,
                                                   float* dx, float* dweight, float* dbias);

REGARD_API regard_status regard_cuda_embedding_forward(const float* table, const int32_t* ids, int64_t n, int64_t dim,
                                                       double scale, float* y);
/* For the n_ids different ids: dtable[ids[i]] += scale * dy[order[j]], j from starts[i] to starts[i + 1], in order. */
REGARD_API regard_status regard_cuda_embedding_backward(const float* dy, const int32_t* ids, const int64_t* starts,
                                                        const int64_t* order, int64_t n_ids, int64_t dim, double scale,
                                                        float* dtable);

/* One step on n weights, or on those of the rows of a (., width) weight. buffer: NULL without momentum. */
REGARD_API regard_status regard_cuda_sgd(float* weight, const float* grad, float* buffer, int64_t n,
                                         const int32_t* rows, int64_t width, double learning_rate, double momentum,
                                         double weight_decay, double grad_scale);
REGARD_API regard_status regard_cuda_adam(float* weight, const float* grad, float* m, float* v, int64_t n,
                                          const int32_t* rows, int64_t width, int64_t step, double learning_rate,
                                          double beta1, double beta2, double eps, double weight_decay, int decoupled,
                                          double grad_scale);
REGARD_API regard_status regard_cuda_sum_squares(const float* x, int64_t n, double* sum); /* sum: on the host */

#ifdef __cplusplus
}
#endif
#endif
