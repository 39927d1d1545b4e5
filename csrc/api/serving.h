// What the Python module needs beside regard.h to answer with a model that lies in its own arrays. No public ABI.
#pragma once
#include "regard.h"

extern "C" {

typedef struct regard_tensor {
  const char* name;
  const char* type;      // "float32", "int64" or "uint8"
  const int64_t* shape;  // (n_dims)
  int64_t n_dims;
  const void* data;  // must stay as long as the model does
} regard_tensor;

// header: JSON with `steps` and `settings.max_len`, as in a model file.
REGARD_API regard_status regard_model_create(const char* header, const regard_tensor* tensors, int64_t n,
                                             regard_model** model);

// Of a model with a pointer, what it adds to the scores of the items of each history; h: (n, dim), the histories
// encoded. items, gains: (offsets[n]), those of a history from its offset on, sorted, counts: (n) how many there are.
REGARD_API regard_status regard_model_gains(const regard_model* model, const regard_histories* histories,
                                            const float* h, int32_t* items, float* gains, int64_t* counts);

}  // extern "C"
