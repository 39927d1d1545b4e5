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

}  // extern "C"
