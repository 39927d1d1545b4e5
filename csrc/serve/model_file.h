// A model file: safetensors with the header of python/regard/model_file.py.
#pragma once
#include "serve/model.h"

namespace regard {

// Maps a file. std::invalid_argument where it is truncated, damaged, no regard model or of a newer format.
std::shared_ptr<Model> open_model(const char* path);

// The same from memory, which must stay as long as the model does; it begins at a multiple of 8.
std::shared_ptr<Model> read_model(std::string_view file, std::shared_ptr<const void> keep);

}  // namespace regard
