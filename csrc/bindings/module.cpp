#include "bindings/bindings.h"

namespace regard {

std::string shape_text(const int64_t* begin, const int64_t* end) {
  std::string text = "(";
  for (const int64_t* size = begin; size < end; ++size)
    text += (size > begin ? ", " : "") + (*size == kAny ? std::string("any") : std::to_string(*size));
  return text + (end - begin == 1 ? ",)" : ")");
}

namespace {

std::string got(const py::object& object) {
  if (!py::isinstance<py::array>(object)) return py::str(py::type::of(object).attr("__name__"));
  const auto array = py::reinterpret_borrow<py::array>(object);
  return std::string(py::str(array.dtype())) + " " + shape_text(array.shape(), array.shape() + array.ndim());
}

}  // namespace

const void* detail::checked(const py::object& object, const char* name, const char* type, bool right_type,
                            const Shape& shape, bool writeable) {
  if (!right_type)
    throw py::type_error(std::string(name) + ": expected a " + type + " array " + shape_text(shape) + ", got " +
                         got(object));
  const auto array = py::reinterpret_borrow<py::array>(object);
  bool fits = static_cast<size_t>(array.ndim()) == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i)
    fits = shape[i] == kAny || shape[i] == array.shape(static_cast<py::ssize_t>(i));
  if (!fits)
    throw py::value_error(std::string(name) + ": expected shape " + shape_text(shape) + ", got " +
                          shape_text(array.shape(), array.shape() + array.ndim()));
  if ((array.flags() & py::array::c_style) == 0)
    throw py::value_error(std::string(name) + ": expected a C-contiguous array, got strides " +
                          shape_text(array.strides(), array.strides() + array.ndim()));
  if (writeable && !array.writeable())
    throw py::value_error(std::string(name) + ": expected a writeable array, got a read-only one");
  return array.data();
}

Shape shape_of(const py::object& object, const char* name, size_t n) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error(std::string(name) + ": expected a NumPy array, got " + got(object));
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (static_cast<size_t>(array.ndim()) != n)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(n) + " dimensions, got shape " +
                          shape_text(array.shape(), array.shape() + array.ndim()));
  Shape shape;
  shape.assign(array.shape(), n);
  return shape;
}

const int64_t* offsets(const py::object& object, const char* name, int64_t rows, int64_t values) {
  const int64_t* at = in<int64_t>(object, name, {rows == kAny ? kAny : rows + 1});
  const int64_t n = shape_of(object, name, 1)[0];
  if (n < 1) throw py::value_error(std::string(name) + ": expected at least one offset, got none");
  if (at[n - 1] != values)
    throw py::value_error(std::string(name) + ": expected to end with " + std::to_string(values) + ", got " +
                          std::to_string(at[n - 1]));
  return at;
}

std::optional<regard_dropout> dropout_of(const py::object& object) {
  if (object.is_none()) return std::nullopt;
  try {
    const auto [p, seed, step, site] = object.cast<std::tuple<double, uint64_t, uint64_t, uint64_t>>();
    return regard_dropout{p, seed, step, site};
  } catch (const py::cast_error&) {
    throw py::type_error("dropout: expected (p, seed, step, site), the last three from 0 to 2^64 - 1, got " +
                         std::string(py::repr(object)));
  }
}

void check(regard_status status) {
  if (status == REGARD_OK) return;
  const std::string message = regard_last_error();
  if (status == REGARD_OUT_OF_MEMORY) {
    PyErr_SetString(PyExc_MemoryError, message.c_str());
    throw py::error_already_set();
  }
  if (status == REGARD_INTERNAL) throw std::runtime_error(message);
  throw py::value_error(message);
}

}  // namespace regard

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Kernels of regard. Private: use regard.ops.";
  if (regard_isa() == nullptr) throw py::import_error(std::string("REGARD_ISA: ") + regard_last_error());
  regard::bind_runtime(m);
  regard::bind_attention(m);
  regard::bind_catalogue(m);
  regard::bind_topk(m);
  regard::bind_layers(m);
  regard::bind_optimizer(m);
  regard::bind_pair_scores(m);
  regard::bind_serving(m);
}
