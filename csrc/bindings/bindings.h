// Python arrays in, C calls out. Every array is checked here, by name: type, shape, memory order; nothing is converted
// or copied. The interpreter lock is released around every C call.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "api/training.h"

namespace py = pybind11;

namespace regard {

constexpr int64_t kAny = -1;  // in a shape: any size
class Shape {                 // sizes of up to 4 dimensions, without memory of their own
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : n_(sizes.size()) { std::copy(sizes.begin(), sizes.end(), sizes_); }
  void assign(const int64_t* sizes, size_t n) { std::copy(sizes, sizes + n, sizes_), n_ = n; }
  size_t size() const { return n_; }
  int64_t operator[](size_t i) const { return sizes_[i]; }
  int64_t& operator[](size_t i) { return sizes_[i]; }
  const int64_t* begin() const { return sizes_; }
  const int64_t* end() const { return sizes_ + n_; }

 private:
  int64_t sizes_[4] = {};
  size_t n_ = 0;
};

std::string shape_text(const int64_t* begin, const int64_t* end);
inline std::string shape_text(const Shape& shape) { return shape_text(shape.begin(), shape.end()); }

namespace detail {
const void* checked(const py::object& object, const char* name, const char* type, bool right_type, const Shape& shape,
                    bool writeable);
template <class T>
constexpr const char* type_name();
template <>
constexpr const char* type_name<float>() {
  return "float32";
}
template <>
constexpr const char* type_name<double>() {
  return "float64";
}
template <>
constexpr const char* type_name<uint8_t>() {
  return "uint8";
}
template <>
constexpr const char* type_name<int32_t>() {
  return "int32";
}
template <>
constexpr const char* type_name<int64_t>() {
  return "int64";
}
}  // namespace detail

template <class T>
bool is_array_of(const py::object& object) {
  if (!py::isinstance<py::array>(object)) return false;
  const py::dtype type = py::reinterpret_borrow<py::array>(object).dtype();
  if (type.num() == py::dtype::num_of<T>() && type.byteorder() == '=') return true;
  return py::isinstance<py::array_t<T>>(object);  // slower, and knows that long and long long may be the same
}

template <class T>
const T* in(const py::object& object, const char* name, const Shape& shape) {
  const bool right = is_array_of<T>(object);
  return static_cast<const T*>(detail::checked(object, name, detail::type_name<T>(), right, shape, false));
}
template <class T>
T* out(const py::object& object, const char* name, const Shape& shape) {
  const bool right = is_array_of<T>(object);
  return static_cast<T*>(const_cast<void*>(detail::checked(object, name, detail::type_name<T>(), right, shape, true)));
}
template <class T>
const T* in_or_null(const py::object& object, const char* name, const Shape& shape) {
  return object.is_none() ? nullptr : in<T>(object, name, shape);
}
template <class T>
T* out_or_null(const py::object& object, const char* name, const Shape& shape) {
  return object.is_none() ? nullptr : out<T>(object, name, shape);
}
// A result's array: the one that was given, or a new one in its place.
template <class T>
T* out_or_new(py::object& object, const char* name, const Shape& shape) {
  if (!object.is_none()) return out<T>(object, name, shape);
  py::array_t<T> fresh(std::vector<py::ssize_t>(shape.begin(), shape.end()));
  T* data = fresh.mutable_data();
  object = std::move(fresh);
  return data;
}

// The shape of an array of `n` dimensions (TypeError / ValueError otherwise).
Shape shape_of(const py::object& object, const char* name, size_t n);

// Offsets of a ragged argument whose last entry must be the number of values. Nothing is read but the ends.
const int64_t* offsets(const py::object& object, const char* name, int64_t rows, int64_t values);

struct Lists {  // a ragged argument, or none
  const int64_t* at = nullptr;
  const int32_t* values = nullptr;
  Lists(const py::object& offsets_in, const py::object& values_in, const char* name, int64_t rows) {
    if (offsets_in.is_none()) return;
    values = in<int32_t>(values_in, name, {kAny});
    at = offsets(offsets_in, (std::string(name) + " offsets").c_str(), rows, shape_of(values_in, name, 1)[0]);
  }
};

// (p, seed, step, site) or None.
std::optional<regard_dropout> dropout_of(const py::object& object);

void check(regard_status status);  // raises ValueError, MemoryError, RuntimeError

template <class F>
void call(F&& function) {
  regard_status status;
  {
    const py::gil_scoped_release release;
    status = function();
  }
  check(status);
}

void bind_runtime(py::module_& m);
void bind_attention(py::module_& m);
void bind_catalogue(py::module_& m);
void bind_topk(py::module_& m);
void bind_layers(py::module_& m);
void bind_optimizer(py::module_& m);
void bind_pair_scores(py::module_& m);
void bind_serving(py::module_& m);

}  // namespace regard
