#include <cstdint>

#include "api/serving.h"
#include "bindings/bindings.h"

namespace regard {
namespace {

const char* type_of(const py::object& array) {
  if (is_array_of<float>(array)) return detail::type_name<float>();
  if (is_array_of<int64_t>(array)) return detail::type_name<int64_t>();
  if (is_array_of<uint8_t>(array)) return detail::type_name<uint8_t>();
  return nullptr;
}

// A history as a flat list of plain ids, or none where it is anything else. The vectors serve a thread's next call.
struct PlainIds {
  std::vector<int64_t> numbers, offsets;
  std::string texts;
  int64_t n = 0;

  bool read(const py::object& history, bool text_ids) {
    numbers.clear(), texts.clear(), offsets.assign(1, 0);
    if (PyList_CheckExact(history.ptr())) {
      n = PyList_GET_SIZE(history.ptr());
      for (int64_t i = 0; i < n; ++i)
        if (!(text_ids ? add_text(PyList_GET_ITEM(history.ptr(), i)) : add_number(PyList_GET_ITEM(history.ptr(), i))))
          return false;
      return true;
    }
    if (text_ids || !is_array_of<int64_t>(history)) return false;
    const auto array = py::reinterpret_borrow<py::array>(history);
    if (array.ndim() != 1 || (array.flags() & py::array::c_style) == 0) return false;
    const auto* data = static_cast<const int64_t*>(array.data());
    n = array.shape(0);
    numbers.assign(data, data + n);
    return true;
  }

 private:
  bool add_number(PyObject* item) {
    if (!PyLong_CheckExact(item)) return false;
    int overflow = 0;
    numbers.push_back(PyLong_AsLongLongAndOverflow(item, &overflow));
    return overflow == 0;
  }
  bool add_text(PyObject* item) {
    if (!PyUnicode_CheckExact(item)) return false;
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(item, &size);
    if (text == nullptr) {  // a lone surrogate
      PyErr_Clear();
      return false;
    }
    texts.append(text, static_cast<size_t>(size));
    offsets.push_back(static_cast<int64_t>(texts.size()));
    return true;
  }
};

class ServingModel {
 public:
  ServingModel(const std::string& header, const py::dict& tensors) : arrays_(tensors.attr("copy")()) {
    std::vector<std::string> names;
    std::vector<Shape> shapes;
    std::vector<regard_tensor> all;
    names.reserve(tensors.size()), shapes.reserve(tensors.size());  // pointers into them are kept
    for (const auto& [key, value] : tensors) {
      names.push_back(py::cast<std::string>(key));
      const auto array = py::reinterpret_borrow<py::object>(value);
      const char* type = type_of(array);
      if (type == nullptr) throw py::type_error(names.back() + ": expected a float32, int64 or uint8 array");
      const auto n = static_cast<size_t>(py::reinterpret_borrow<py::array>(array).ndim());
      shapes.push_back(shape_of(array, names.back().c_str(), n > 4 ? 4 : n));
      const void* data = detail::checked(array, names.back().c_str(), type, true, shapes.back(), false);
      all.push_back({names.back().c_str(), type, shapes.back().begin(), static_cast<int64_t>(n), data});
    }
    call([&] { return regard_model_create(header.c_str(), all.data(), static_cast<int64_t>(all.size()), &model_); });
    info_.struct_size = sizeof info_;
    check(regard_model_describe(model_, &info_));
  }
  ~ServingModel() { regard_model_close(model_); }
  ServingModel(const ServingModel&) = delete;
  ServingModel& operator=(const ServingModel&) = delete;

  void encode(const py::object& items, const py::object& offset, const py::object& times, const py::object& asked_at,
              const py::object& h) const {
    const regard_histories all = histories_of(items, offset, times, asked_at);
    float* to = out<float>(h, "h", {all.n, info_.dim});
    call([&] { return regard_encode(model_, &all, to); });
  }

  regard_histories histories_of(const py::object& items, const py::object& offset, const py::object& times,
                                const py::object& asked_at) const {
    regard_histories all{};
    all.struct_size = sizeof all;
    const int64_t total = shape_of(items, "items", 1)[0];
    all.items = in<int32_t>(items, "items", {total});
    all.offsets = offsets(offset, "offsets", kAny, total);
    all.n = shape_of(offset, "offsets", 1)[0] - 1;
    all.times = in_or_null<int64_t>(times, "times", {total});
    all.asked_at = in_or_null<int64_t>(asked_at, "asked_at", {all.n});
    return all;
  }

  // Items (n, k), best first, and their scores; lists of allowed and denied items with their offsets, or None.
  py::tuple recommend(const py::object& items, const py::object& offset, const py::object& times,
                      const py::object& asked_at, int64_t k, const py::object& allow_offsets, const py::object& allow,
                      const py::object& deny_offsets, const py::object& deny) const {
    const regard_histories all = histories_of(items, offset, times, asked_at);
    regard_recommend_args args{};
    args.struct_size = sizeof args;
    args.histories = &all, args.k = k;
    const Lists allowed(allow_offsets, allow, "allow", all.n), denied(deny_offsets, deny, "deny", all.n);
    args.allow_offsets = allowed.at, args.allow = allowed.values;
    args.deny_offsets = denied.at, args.deny = denied.values;
    py::array_t<int32_t> found({all.n, k});
    py::array_t<float> scores({all.n, k});
    std::vector<uint8_t> flags(static_cast<size_t>(all.n));
    args.items = found.mutable_data(), args.scores = scores.mutable_data(), args.flags = flags.data();
    call([&] { return regard_recommend(model_, &args); });
    return py::make_tuple(found, scores);
  }

  // Of a model with a pointer, what it adds to the scores of the items of each history.
  void gains(const py::object& items, const py::object& offset, const py::object& times, const py::object& asked_at,
             const py::object& h, const py::object& found, const py::object& found_gains,
             const py::object& counts) const {
    const regard_histories all = histories_of(items, offset, times, asked_at);
    const int64_t total = shape_of(items, "items", 1)[0];
    const auto* rows = in<float>(h, "h", {all.n, info_.dim});
    auto* of = out<int32_t>(found, "found", {total});
    auto* more = out<float>(found_gains, "gains", {total});
    auto* numbers = out<int64_t>(counts, "counts", {all.n});
    call([&] { return regard_model_gains(model_, &all, rows, of, more, numbers); });
  }

  // Items of plain ids, -1 where there is none; null for anything else. They serve a thread's next call.
  const std::vector<int32_t>* items_of(const py::object& list) const {
    static thread_local PlainIds ids;
    static thread_local std::vector<int32_t> items;
    if (!ids.read(list, info_.text_ids != 0)) return nullptr;
    items.resize(static_cast<size_t>(ids.n));
    check(info_.text_ids != 0
              ? regard_model_items_of_texts(model_, ids.texts.data(), ids.offsets.data(), ids.n, items.data())
              : regard_model_items(model_, ids.numbers.data(), ids.n, items.data()));
    return &items;
  }

  // For one history of plain ids with a known one among them: item ids (numbers of items where ids are texts), scores,
  // flags, and how many ids were unknown. None for anything else, which is left to who has the messages.
  py::object recommend_one(const py::object& history, int64_t k, bool exclude_seen) const {
    const std::vector<int32_t>* items = k < 1 || k > kMost || info_.timed != 0 ? nullptr : items_of(history);
    if (items == nullptr) return py::none();
    const auto unknown = std::count(items->begin(), items->end(), -1), n = static_cast<std::ptrdiff_t>(items->size());
    if (unknown == n) return py::none();
    const int64_t ends[] = {0, n};
    regard_histories all{};
    all.struct_size = sizeof all;
    all.items = items->data(), all.offsets = ends, all.n = 1;
    regard_recommend_args args{};
    args.histories = &all;
    return answer(args, k, exclude_seen, unknown,
                  [&](const regard_recommend_args* filled) { return regard_recommend(model_, filled); });
  }

  template <class F>
  py::tuple answer(regard_recommend_args& args, int64_t k, bool exclude_seen, int64_t unknown, F&& recommend) const {
    const py::array_t<float> scores({int64_t{1}, k});
    const py::array_t<int32_t> items({int64_t{1}, k});
    const py::array_t<uint8_t> flags(1);
    py::array_t<int64_t> n_unknown(1);
    *n_unknown.mutable_data() = unknown;
    args.struct_size = sizeof args;
    args.k = k, args.exclude_seen = exclude_seen;
    args.items = const_cast<int32_t*>(items.data()), args.scores = const_cast<float*>(scores.data());
    args.flags = const_cast<uint8_t*>(flags.data());
    call([&] { return recommend(&args); });
    if (info_.text_ids != 0) return py::make_tuple(items, scores, flags, n_unknown);
    py::array_t<int64_t> found({int64_t{1}, k});
    check(regard_model_ids(model_, items.data(), k, found.mutable_data()));
    return py::make_tuple(found, scores, flags, n_unknown);
  }

  regard_model* handle() const { return model_; }

 private:
  static constexpr int64_t kMost = 1 << 20;

  py::object arrays_;  // keeps them alive
  regard_model* model_ = nullptr;
  regard_model_info info_{};
};

class ServingSession {
 public:
  explicit ServingSession(py::object model) : owner_(std::move(model)), model_(owner_.cast<const ServingModel&>()) {
    check(regard_session_open(model_.handle(), &session_));
  }
  ~ServingSession() { regard_session_close(session_); }
  ServingSession(const ServingSession&) = delete;
  ServingSession& operator=(const ServingSession&) = delete;

  // How many of plain ids were unknown; None, and nothing done, for anything else.
  py::object append_ids(const py::object& list, const py::object& times) {
    const std::vector<int32_t>* items = model_.items_of(list);
    if (items == nullptr) return py::none();
    append(items->data(), times, static_cast<int64_t>(items->size()));
    return py::int_(std::count(items->begin(), items->end(), -1));
  }
  void append_items(const py::object& items, const py::object& times) {
    const int64_t n = shape_of(items, "items", 1)[0];
    append(in<int32_t>(items, "items", {n}), times, n);
  }
  py::tuple recommend(int64_t k, bool exclude_seen, const py::object& allow, const py::object& deny, int64_t n_unknown,
                      std::optional<int64_t> asked_at) {
    regard_recommend_args args{};
    regard_histories asked{};
    asked.struct_size = sizeof asked;
    if (asked_at) asked.asked_at = &*asked_at, args.histories = &asked;
    int64_t allowed[] = {0, 0}, denied[] = {0, 0};
    if (!allow.is_none()) {
      allowed[1] = shape_of(allow, "allow", 1)[0];
      args.allow_offsets = allowed, args.allow = in<int32_t>(allow, "allow", {allowed[1]});
    }
    if (!deny.is_none()) {
      denied[1] = shape_of(deny, "deny", 1)[0];
      args.deny_offsets = denied, args.deny = in<int32_t>(deny, "deny", {denied[1]});
    }
    return model_.answer(args, k, exclude_seen, n_unknown, [&](const regard_recommend_args* filled) {
      return regard_session_recommend(session_, filled);
    });
  }
  // Items, and their times, which mean nothing where the model has no time bias.
  py::tuple window() const {
    int64_t n = 0;
    check(regard_session_window(session_, nullptr, nullptr, 0, &n));
    py::array_t<int32_t> items(n);
    py::array_t<int64_t> times(n);
    if (n > 0) check(regard_session_window(session_, items.mutable_data(), times.mutable_data(), n, &n));
    return py::make_tuple(items, times);
  }
  int64_t bytes() const {
    int64_t bytes = 0;
    check(regard_session_bytes(session_, &bytes));
    return bytes;
  }

 private:
  void append(const int32_t* items, const py::object& times, int64_t n) {
    const int64_t* moments = in_or_null<int64_t>(times, "times", {n});
    call([&] { return regard_session_append(session_, items, moments, n); });
  }

  py::object owner_;  // keeps the model's arrays alive
  const ServingModel& model_;
  regard_session* session_ = nullptr;
};

}  // namespace

void bind_serving(py::module_& m) {
  py::class_<ServingModel>(m, "ServingModel")
      .def(py::init<const std::string&, const py::dict&>(), py::arg("header"), py::arg("tensors"))
      .def("encode", &ServingModel::encode, py::arg("items"), py::arg("offsets"), py::arg("times"), py::arg("asked_at"),
           py::arg("h"))
      .def("gains", &ServingModel::gains, py::arg("items"), py::arg("offsets"), py::arg("times"), py::arg("asked_at"),
           py::arg("h"), py::arg("found"), py::arg("gains"), py::arg("counts"))
      .def("recommend", &ServingModel::recommend, py::arg("items"), py::arg("offsets"), py::arg("times"),
           py::arg("asked_at"), py::arg("k"), py::arg("allow_offsets"), py::arg("allow"), py::arg("deny_offsets"),
           py::arg("deny"))
      .def("recommend_one", &ServingModel::recommend_one, py::arg("history"), py::arg("k"), py::arg("exclude_seen"));
  py::class_<ServingSession>(m, "ServingSession")
      .def(py::init<py::object>(), py::arg("model"))
      .def("append_ids", &ServingSession::append_ids, py::arg("ids"), py::arg("times"))
      .def("append_items", &ServingSession::append_items, py::arg("items"), py::arg("times"))
      .def("recommend", &ServingSession::recommend, py::arg("k"), py::arg("exclude_seen"), py::arg("allow"),
           py::arg("deny"), py::arg("n_unknown"), py::arg("asked_at"))
      .def("window", &ServingSession::window)
      .def("bytes", &ServingSession::bytes);
}

}  // namespace regard
