#include <sstream>

#include "bindings/bindings.h"

namespace regard {
namespace {

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> list;
  for (std::string word; stream >> word;) list.push_back(word);
  return list;
}

}  // namespace

void bind_runtime(py::module_& m) {
  m.def("version", [] { return std::string(regard_version()); });
  m.def("compiler", [] { return std::string(regard_compiler()); });
  m.def("abi_version", [] { return regard_abi_version(); });
  m.def("isa", [] { return std::string(regard_isa()); });
  m.def("isa_built", [] { return words(regard_isa_built()); });
  m.def("isa_available", [] { return words(regard_isa_available()); });
  m.def("set_isa", [](const std::string& name) { check(regard_set_isa(name.c_str())); }, py::arg("name"));
  m.def("num_threads", [] { return regard_num_threads(); });
  m.def("num_threads_reason", [] { return std::string(regard_num_threads_reason()); });
  m.def("set_num_threads", [](int n) { check(regard_set_num_threads(n)); }, py::arg("n"));
}

}  // namespace regard
