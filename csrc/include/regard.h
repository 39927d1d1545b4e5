/* regard: recommendations of a trained model; softmax attention and exact top-k over ragged batches, on plain arrays.
 *
 * Every function returns a regard_status and writes to the caller's memory. On anything but REGARD_OK,
 * regard_last_error() says what was expected and what came; the text belongs to the calling thread and lasts until its
 * next failing call. Argument structs begin with their size: set `struct_size = sizeof(struct)` and zero the rest
 * first. */
#ifndef REGARD_H
#define REGARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __GNUC__
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
/* Names, separated by spaces, worst first; NULL without memory for them. */
REGARD_API const char* regard_isa_built(void);
REGARD_API const char* regard_isa_available(void);
REGARD_API regard_status regard_set_isa(const char* name);

/* Threads for batch work: the least of the CPU affinity, the cgroup quota, OMP_NUM_THREADS and REGARD_NUM_THREADS
 * unless set here. Results do not depend on it. */
REGARD_API int regard_num_threads(void);
/* What decided; the text lasts until the thread's next call of this function. */
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

/* A trained model, from a file that Python's `model.save` wrote. A handle may be used by any number of threads at once;
 * one that was closed, or that was never open, is an error. Items are numbered from 0 in the order of their ids. */
typedef struct regard_model regard_model;

/* The file is mapped: processes share one copy. What comes from memory must stay there, unchanged, until the model is
 * closed, and begin at a multiple of 8. */
REGARD_API regard_status regard_model_open(const char* path, regard_model** model);
REGARD_API regard_status regard_model_open_memory(const void* data, size_t size, regard_model** model);
REGARD_API regard_status regard_model_close(regard_model* model);

typedef struct regard_model_info {
  size_t struct_size;
  int64_t n_items, dim, max_len;
  int text_ids; /* ids are texts, else int64 */
  int timed;    /* histories need times */
} regard_model_info;

REGARD_API regard_status regard_model_describe(const regard_model* model, regard_model_info* info);

/* Items of ids, -1 for an id that the model does not have; and ids of items, -1 and an empty text for item -1. Texts
 * are UTF-8, text i from offsets[i] to offsets[i + 1]. The text of an id lasts until the model is closed. */
REGARD_API regard_status regard_model_items(const regard_model* model, const int64_t* ids, int64_t n, int32_t* items);
REGARD_API regard_status regard_model_items_of_texts(const regard_model* model, const char* texts,
                                                     const int64_t* offsets, int64_t n, int32_t* items);
REGARD_API regard_status regard_model_ids(const regard_model* model, const int32_t* items, int64_t n, int64_t* ids);
REGARD_API regard_status regard_model_text(const regard_model* model, int32_t item, const char** text, size_t* size);

/* Events of n histories, oldest first: history i from offsets[i] to offsets[i + 1]. Item -1 is skipped; of the others
 * the newest max_len count. */
typedef struct regard_histories {
  size_t struct_size;
  const int32_t* items;   /* (offsets[n]) */
  const int64_t* offsets; /* (n + 1) */
  int64_t n;
  const int64_t* times;    /* (offsets[n]) whole seconds, of a timed model; else not read */
  const int64_t* asked_at; /* (n) the moment that is asked about, likewise */
} regard_histories;

/* h: (n, dim), what is compared with the item vectors; 0 where no event is known. */
REGARD_API regard_status regard_encode(const regard_model* model, const regard_histories* histories, float* h);

enum { REGARD_POPULAR = 1, REGARD_SHORT = 2 }; /* no known event: the most popular items; fewer than k were allowed */

/* The k best items for each history, best first, equal scores by lower item number; after the last one item -1 and
 * score -infinity. Histories that arrive one at a time are answered by the calling thread alone, without allocating
 * memory once a thread has answered one of that size. */
typedef struct regard_recommend_args {
  size_t struct_size;
  const regard_histories* histories;
  int64_t k;
  int exclude_seen;             /* leave out what the history holds */
  const int64_t* allow_offsets; /* (n + 1) or NULL: everything is allowed */
  const int32_t* allow;         /* items in any order, -1 is ignored */
  const int64_t* deny_offsets;  /* (n + 1) or NULL */
  const int32_t* deny;
  int32_t* items; /* (n, k) */
  float* scores;  /* (n, k) */
  uint8_t* flags; /* (n) of REGARD_POPULAR and REGARD_SHORT */
} regard_recommend_args;

REGARD_API regard_status regard_recommend(const regard_model* model, const regard_recommend_args* args);

/* The history of a user who is here, whose keys and values are kept: an event costs what is new in it. It may be used
 * by several threads, which wait for each other; it may outlive the handle of its model.
 *
 * Before an event that finds max_len events, the oldest max_len / 4 (at least 1) are forgotten;
 * of more than max_len at once the newest are kept. The answers are those
 * of regard_recommend for the events that are left, the window, which is also what a session can be made of again. */
typedef struct regard_session regard_session;

REGARD_API regard_status regard_session_open(const regard_model* model, regard_session** session);
REGARD_API regard_status regard_session_close(regard_session* session);
/* Item -1 is skipped. times: (n) whole seconds, of a timed model; else not read. */
REGARD_API regard_status regard_session_append(regard_session* session, const int32_t* items, const int64_t* times,
                                               int64_t n);
/* histories: NULL, or for a timed model a struct of which asked_at alone is read, for one history; all else as for one
 * history. */
REGARD_API regard_status regard_session_recommend(regard_session* session, const regard_recommend_args* args);
/* n: how many events are in the window. items, times: (room), room 0 to ask for the number alone. times may be NULL,
 * and is left as it is by a model that is not timed. */
REGARD_API regard_status regard_session_window(const regard_session* session, int32_t* items, int64_t* times,
                                               int64_t room, int64_t* n);
/* The memory that it takes now; it grows with the window, to 8 to 16 bytes for each event, element of dim and
 * attention. */
REGARD_API regard_status regard_session_bytes(const regard_session* session, int64_t* bytes);

#ifdef __cplusplus
}
#endif
#endif
