/* regard: softmax attention and exact top-k over ragged batches, on plain arrays.
 *
 * Every function returns a regard_status and writes to the caller's memory. On anything but REGARD_OK,
 * regard_last_error() says what was expected and what came; the text belongs to the calling thread and lasts until its
 * next failing call. Argument structs begin with their size: set `struct_size = sizeof(struct)` and zero the rest
 * first. */
#ifndef REGARD_H
#define REGARD_H

#include <stddef.h>
#include <stdint.h>

#if defined(REGARD_BUILD) || defined(__GNUC__)
#define REGARD_API __attribute__((visibility("default")))
#else
#define REGARD_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum regard_status {
  REGARD_OK = 0,
  REGARD_INVALID_ARGUMENT = 1,
  REGARD_OUT_OF_MEMORY = 2,
  REGARD_UNAVAILABLE = 3, /* an instruction set that was not built or that this machine lacks */
  REGARD_INTERNAL = 4
} regard_status;

REGARD_API const char* regard_last_error(void);
REGARD_API const char* regard_version(void);
REGARD_API const char* regard_compiler(void);
REGARD_API int regard_abi_version(void);

/* The instruction set in use; NULL if REGARD_ISA names one that cannot be used. */
REGARD_API const char* regard_isa(void);
/* Names, separated by spaces, worst first. */
REGARD_API const char* regard_isa_built(void);
REGARD_API const char* regard_isa_available(void);
REGARD_API regard_status regard_set_isa(const char* name);

/* Threads for batch work: the least of the CPU affinity, the cgroup quota, OMP_NUM_THREADS and REGARD_NUM_THREADS
 * unless set here. Results do not depend on it. */
REGARD_API int regard_num_threads(void);
REGARD_API const char* regard_num_threads_reason(void);
REGARD_API regard_status regard_set_num_threads(int n);

/* Softmax attention within each sequence of a ragged batch:
 *   out[i] = sum_j softmax_j(softmax_scale * q[i]·k[j] + bias[distance]) * v[j]
 * A query that sees no key gives 0 and lse -infinity. */
typedef struct regard_attention {
  size_t struct_size;
  const float* q;              /* (cu_seqlens_q[batch], n_heads, head_dim) */
  const float* k;              /* (cu_seqlens_k[batch], n_heads, head_dim) */
  const float* v;              /* as k */
  const int64_t* cu_seqlens_q; /* (batch + 1), first 0, never falling */
  const int64_t* cu_seqlens_k;
  int64_t batch, n_heads, head_dim; /* head_dim 1 to 256 */
  float softmax_scale;
  int causal;             /* query i of n sees key j of m only if j - i <= m - n, */
  int causal_align_start; /* or, if set, only if j <= i */
  const float* bias;      /* (n_heads, bias_len) or NULL. causal: distances 0 .. bias_len - 1; else bias_len is odd,
                             distances -(bias_len - 1) / 2 .. (bias_len - 1) / 2. Farther keys use the last entry.
                             distance = place of the query - place of the key, under the same alignment. */
  int64_t bias_len;
  float* out;  /* (cu_seqlens_q[batch], n_heads, head_dim) */
  double* lse; /* (cu_seqlens_q[batch], n_heads) */
} regard_attention;

REGARD_API regard_status regard_attention_forward(const regard_attention* args);

/* The k items with the highest inner product for each query, best first; equal scores by lower item number. Rows with
 * fewer than k allowed items are filled with item -1, score -infinity. Exact. */
typedef struct regard_topk_args {
  size_t struct_size;
  const float* h;            /* (n, dim) */
  const float* item_vectors; /* (n_items, dim) */
  int64_t n, n_items, dim, k;
  const int64_t* allow_offsets; /* (n + 1) or NULL: everything is allowed */
  const int32_t* allow;         /* item numbers in any order */
  const int64_t* deny_offsets;  /* (n + 1) or NULL */
  const int32_t* deny;
  int32_t* items;        /* (n, k) */
  float* scores;         /* (n, k) */
  const void* quantized; /* what regard_quantize_items made of item_vectors, or NULL: only speed depends on it.
                            A struct_size that ends before it is accepted. */
} regard_topk_args;

REGARD_API regard_status regard_topk(const regard_topk_args* args);

/* An 8-bit copy of the item vectors with bounds of its error: regard_topk reads it in their place, and the vectors of
 * the few items that may be among the best. The answer is the same to the bit. It must be made again when the vectors
 * change. dim is at most 16384. */
REGARD_API regard_status regard_quantized_size(int64_t n_items, int64_t dim, size_t* bytes);
/* quantized: that many bytes, aligned at 4; 64 is faster. */
REGARD_API regard_status regard_quantize_items(const float* item_vectors, int64_t n_items, int64_t dim,
                                               void* quantized);

#ifdef __cplusplus
}
#endif
#endif
