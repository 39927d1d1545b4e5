// Named arrays that somebody else owns: a mapped file, or the caller.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

namespace regard {

enum class Type { f32, f64, i32, i64, u8 };

struct Tensor {
  Type type = Type::f32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

class Tensors {
 public:
  static constexpr int64_t kAny = -1;  // in a shape: any size from 1 on

  void add(std::string name, Tensor tensor) { by_name_[std::move(name)] = std::move(tensor); }
  bool has(const std::string& name) const { return by_name_.count(name) > 0; }

  // std::invalid_argument if a number is not finite, but in tensors of so many rows: those of the items may be large.
  void check_finite(int64_t n_items) const;

  // The array of that name; std::invalid_argument if it is missing or of another type or shape.
  const Tensor& get(const std::string& name, Type type, std::initializer_list<int64_t> shape) const;
  const float* floats(const std::string& name, std::initializer_list<int64_t> shape) const {
    return static_cast<const float*>(get(name, Type::f32, shape).data);
  }

 private:
  std::map<std::string, Tensor> by_name_;
};

}  // namespace regard
