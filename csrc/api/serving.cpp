// Models and sessions behind handles: a handle is a number that is never used twice, so one that was closed is an error
// and not a crash, and closing one that answers elsewhere waits for nobody.
#include "api/serving.h"

#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "api/check.h"
#include "serve/model_file.h"
#include "serve/session.h"

using namespace regard;

namespace {

template <class Opaque, class T>
class Handles {
 public:
  explicit Handles(const char* name) : name_(name) {}

  Opaque* add(std::shared_ptr<T> thing) {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    next_ += 16;
    things_.emplace(next_, std::move(thing));
    return reinterpret_cast<Opaque*>(next_);
  }
  std::shared_ptr<T> get(const Opaque* handle) {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    const auto found = things_.find(reinterpret_cast<uintptr_t>(handle));
    if (found == things_.end()) invalid(name_, "one that is open", handle == nullptr ? "NULL" : "another");
    return found->second;
  }
  void remove(const Opaque* handle) {
    const std::shared_ptr<T> last = get(handle);  // destroyed outside the lock
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    things_.erase(reinterpret_cast<uintptr_t>(handle));
  }

 private:
  const char* name_;
  std::shared_mutex mutex_;
  std::unordered_map<uintptr_t, std::shared_ptr<T>> things_;
  uintptr_t next_ = 0;
};

// Never destroyed: threads may answer while the process ends.
Handles<regard_model, const Model>& models() {
  static auto* all = new Handles<regard_model, const Model>("model");
  return *all;
}
Handles<regard_session, Session>& sessions() {
  static auto* all = new Handles<regard_session, Session>("session");
  return *all;
}

Type type_of(const char* name) {
  if (std::strcmp(name, "float32") == 0) return Type::f32;
  if (std::strcmp(name, "int64") == 0) return Type::i64;
  if (std::strcmp(name, "uint8") == 0) return Type::u8;
  throw std::invalid_argument(std::string("tensors: unknown type ") + name);
}

void check_items(const int32_t* items, int64_t n, const Model& model, const char* name) {
  require(items, name, n);
  for (int64_t i = 0; i < n; ++i)
    if (items[i] < -1 || items[i] >= model.encoder().n_items())
      invalid(name, "-1 or items from 0 to " + std::to_string(model.encoder().n_items() - 1),
              std::to_string(items[i]) + " at place " + std::to_string(i));
}

Histories checked(const regard_histories& a, const Model& model) {
  regard::at_least(static_cast<int64_t>(a.struct_size), static_cast<int64_t>(sizeof a), "struct_size of histories");
  regard::at_least(a.n, 0, "n");
  check_offsets(a.offsets, a.n, "offsets");
  check_items(a.items, a.offsets[a.n], model, "items");
  if (model.encoder().timed()) {
    require(a.times, "times", a.offsets[a.n]);
    require(a.asked_at, "asked_at", a.n);
  }
  return {a.items, a.offsets, a.times, a.asked_at};
}

// All but the histories and what depends on their number.
Request checked(const regard_recommend_args* a) {
  require(a, "args");
  regard::at_least(static_cast<int64_t>(a->struct_size), static_cast<int64_t>(sizeof *a), "struct_size");
  regard::at_least(a->k, 1, "k");
  if (a->k > INT32_MAX) invalid("k", "below 2^31", std::to_string(a->k));
  return {{},       0,         a->k,    a->exclude_seen != 0, a->allow_offsets, a->deny_offsets, a->allow, a->deny,
          a->items, a->scores, a->flags};
}

void check_answers(const regard_recommend_args& a, int64_t n, const Model& model) {
  const auto check_list = [&](const int64_t* offsets, const int32_t* items, const char* name) {
    if (offsets == nullptr) return;
    check_offsets(offsets, n, (std::string(name) + "_offsets").c_str());
    check_items(items, offsets[n], model, name);
  };
  check_list(a.allow_offsets, a.allow, "allow");
  check_list(a.deny_offsets, a.deny, "deny");
  require(a.items, "items", n);
  require(a.scores, "scores", n);
  require(a.flags, "flags", n);
}

}  // namespace

extern "C" {

regard_status regard_model_open(const char* path, regard_model** model) {
  return guarded([&] {
    require(path, "path");
    require(model, "model");
    *model = models().add(open_model(path));
  });
}

regard_status regard_model_open_memory(const void* data, size_t size, regard_model** model) {
  return guarded([&] {
    require(data, "data");
    require(model, "model");
    if (reinterpret_cast<uintptr_t>(data) % 8 != 0) invalid("data", "an address that is a multiple of 8", "another");
    *model = models().add(read_model({static_cast<const char*>(data), size}, nullptr));
  });
}

regard_status regard_model_create(const char* header, const regard_tensor* tensors, int64_t n, regard_model** model) {
  return guarded([&] {
    require(header, "header");
    require(tensors, "tensors", n);
    require(model, "model");
    Tensors all;
    for (const regard_tensor* t = tensors; t < tensors + n; ++t)
      all.add(t->name, {type_of(t->type), {t->shape, t->shape + t->n_dims}, t->data});
    *model = models().add(std::make_shared<const Model>(Json::parse(header), all, nullptr));
  });
}

regard_status regard_model_close(regard_model* model) {
  return guarded([&] { models().remove(model); });
}

regard_status regard_model_describe(const regard_model* handle, regard_model_info* info) {
  return guarded([&] {
    require(info, "info");
    regard::at_least(static_cast<int64_t>(info->struct_size), static_cast<int64_t>(sizeof *info), "struct_size");
    const auto model = models().get(handle);
    const Encoder& encoder = model->encoder();
    info->n_items = encoder.n_items(), info->dim = encoder.dim(), info->max_len = encoder.max_len();
    info->text_ids = model->text_ids(), info->timed = encoder.timed();
  });
}

regard_status regard_model_items(const regard_model* handle, const int64_t* ids, int64_t n, int32_t* items) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(ids, "ids", n);
    require(items, "items", n);
    const auto model = models().get(handle);
    if (model->text_ids()) invalid("model", "one whose ids are numbers", "one whose ids are texts");
    for (int64_t i = 0; i < n; ++i) items[i] = static_cast<int32_t>(model->row_of(ids[i]));
  });
}

regard_status regard_model_items_of_texts(const regard_model* handle, const char* texts, const int64_t* offsets,
                                          int64_t n, int32_t* items) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    check_offsets(offsets, n, "offsets");
    require(texts, "texts", offsets[n]);
    require(items, "items", n);
    const auto model = models().get(handle);
    if (!model->text_ids()) invalid("model", "one whose ids are texts", "one whose ids are numbers");
    for (int64_t i = 0; i < n; ++i)
      items[i] = static_cast<int32_t>(
          model->row_of(std::string_view(texts + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i]))));
  });
}

regard_status regard_model_ids(const regard_model* handle, const int32_t* items, int64_t n, int64_t* ids) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(ids, "ids", n);
    const auto model = models().get(handle);
    if (model->text_ids()) invalid("model", "one whose ids are numbers", "one whose ids are texts");
    check_items(items, n, *model, "items");
    for (int64_t i = 0; i < n; ++i) ids[i] = items[i] < 0 ? -1 : model->number(items[i]);
  });
}

regard_status regard_model_text(const regard_model* handle, int32_t item, const char** text, size_t* size) {
  return guarded([&] {
    require(text, "text");
    require(size, "size");
    const auto model = models().get(handle);
    if (!model->text_ids()) invalid("model", "one whose ids are texts", "one whose ids are numbers");
    check_items(&item, 1, *model, "item");
    const std::string_view found = item < 0 ? std::string_view() : model->text(item);
    *text = found.data(), *size = found.size();
  });
}

regard_status regard_encode(const regard_model* handle, const regard_histories* histories, float* h) {
  return guarded([&] {
    require(histories, "histories");
    const auto model = models().get(handle);
    const Histories all = checked(*histories, *model);
    require(h, "h", histories->n);
    model->encoder().encode(all, histories->n, h);
  });
}

regard_status regard_model_gains(const regard_model* handle, const regard_histories* histories, const float* h,
                                 int32_t* items, float* gains, int64_t* counts) {
  return guarded([&] {
    require(histories, "histories");
    const auto model = models().get(handle);
    const Histories all = checked(*histories, *model);
    const Encoder& encoder = model->encoder();
    if (!encoder.points()) invalid("model", "one with a pointer", "one without");
    const int64_t n = histories->n, total = all.offsets[n];
    require(h, "h", n);
    require(items, "items", total);
    require(gains, "gains", total);
    require(counts, "counts", n);
    const CallScratch memory(3 * total);
    auto* found = reinterpret_cast<Gain*>(memory.data());
    Parts(n, 64, 16).each([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = all.offsets[i];
        Gain* mine = found + at;
        counts[i] = encoder.gains(h + i * encoder.dim(), all.items + at, all.offsets[i + 1] - at, mine,
                                  memory.data() + 2 * total + at);
        for (int64_t x = 0; x < counts[i]; ++x) items[at + x] = mine[x].item, gains[at + x] = mine[x].gain;
      }
    });
  });
}

regard_status regard_recommend(const regard_model* handle, const regard_recommend_args* args) {
  return guarded([&] {
    const auto model = models().get(handle);
    Request request = checked(args);
    require(args->histories, "histories");
    request.histories = checked(*args->histories, *model), request.n = args->histories->n;
    check_answers(*args, request.n, *model);
    model->recommend(request);
  });
}

regard_status regard_session_open(const regard_model* model, regard_session** session) {
  return guarded([&] {
    require(session, "session");
    *session = sessions().add(std::make_shared<Session>(models().get(model)));
  });
}

regard_status regard_session_close(regard_session* session) {
  return guarded([&] { sessions().remove(session); });
}

regard_status regard_session_append(regard_session* handle, const int32_t* items, const int64_t* times, int64_t n) {
  return guarded([&] {
    const auto session = sessions().get(handle);
    regard::at_least(n, 0, "n");
    check_items(items, n, session->model(), "items");
    if (session->model().encoder().timed()) require(times, "times", n);
    session->append(items, times, n);
  });
}

regard_status regard_session_recommend(regard_session* handle, const regard_recommend_args* args) {
  return guarded([&] {
    const auto session = sessions().get(handle);
    const Request request = checked(args);
    const regard_histories* asked = args->histories;
    const bool timed = session->model().encoder().timed();
    if (!timed && asked != nullptr) invalid("histories", "NULL, as a session has its own", "one");
    if (timed) {
      require(asked, "histories");
      regard::at_least(static_cast<int64_t>(asked->struct_size), static_cast<int64_t>(sizeof *asked),
                       "struct_size of histories");
      require(asked->asked_at, "asked_at");
    }
    check_answers(*args, 1, session->model());
    session->recommend(request, timed ? *asked->asked_at : 0);
  });
}

regard_status regard_session_window(const regard_session* handle, int32_t* items, int64_t* times, int64_t room,
                                    int64_t* n) {
  return guarded([&] {
    require(n, "n");
    const auto session = sessions().get(handle);
    std::vector<int64_t> moments;
    const std::vector<int32_t> window = session->window(&moments);
    *n = static_cast<int64_t>(window.size());
    if (room == 0) return;
    regard::at_least(room, *n, "room");
    require(items, "items");
    std::copy(window.begin(), window.end(), items);
    if (times != nullptr) std::copy(moments.begin(), moments.end(), times);
  });
}

regard_status regard_session_bytes(const regard_session* handle, int64_t* bytes) {
  return guarded([&] {
    require(bytes, "bytes");
    *bytes = sessions().get(handle)->bytes();
  });
}

}  // extern "C"
