#include "serve/tensors.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace regard {

const Tensor& Tensors::get(const std::string& name, Type type, std::initializer_list<int64_t> shape) const {
  const auto text = [](auto&& sizes) {
    std::string made;
    for (const int64_t size : sizes) made += (made.empty() ? "" : ", ") + (size == kAny ? "any" : std::to_string(size));
    return "(" + made + ")";
  };
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) throw std::invalid_argument("tensor '" + name + "' is missing");
  const Tensor& tensor = found->second;
  if (tensor.type != type) throw std::invalid_argument("tensor '" + name + "' has another type than is expected");
  const bool fits = tensor.shape.size() == shape.size() &&
                    std::equal(shape.begin(), shape.end(), tensor.shape.begin(),
                               [](int64_t wanted, int64_t size) { return wanted == kAny ? size > 0 : wanted == size; });
  if (!fits)
    throw std::invalid_argument("tensor '" + name + "': expected shape " + text(shape) + ", got " + text(tensor.shape));
  return tensor;
}

void Tensors::check_finite(int64_t n_items) const {
  for (const auto& [name, tensor] : by_name_) {
    if (tensor.type != Type::f32 || (!tensor.shape.empty() && tensor.shape[0] == n_items)) continue;
    int64_t n = 1;
    for (const int64_t size : tensor.shape) n *= size;
    const auto* values = static_cast<const float*>(tensor.data);
    if (!std::all_of(values, values + n, [](float value) { return std::isfinite(value); }))
      throw std::invalid_argument("tensor '" + name + "' has values that are not finite");
  }
}

}  // namespace regard
