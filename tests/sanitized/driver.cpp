// Uses models and sessions of libregard in every way, for builds with sanitizers: driver FILE...
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "regard.h"

namespace {

constexpr int64_t kMost = 7;

void need(bool fine, const char* what) {
  if (fine) return;
  std::fprintf(stderr, "%s: %s\n", what, regard_last_error());
  std::exit(1);
}

struct Answers {
  std::vector<int32_t> items;
  std::vector<float> scores;
  std::vector<uint8_t> flags;
  regard_recommend_args args{};

  Answers(int64_t n, const regard_histories* histories)
      : items(static_cast<size_t>(n * kMost)), scores(items.size()), flags(static_cast<size_t>(n)) {
    args.struct_size = sizeof args;
    args.histories = histories, args.k = kMost, args.exclude_seen = 1;
    args.items = items.data(), args.scores = scores.data(), args.flags = flags.data();
  }
};

void answer(const regard_model* model, unsigned seed) {
  regard_model_info info{};
  info.struct_size = sizeof info;
  if (regard_model_describe(model, &info) != REGARD_OK) return;  // closed by another thread
  std::mt19937 random(seed);
  const auto draw = [&](int64_t most) { return static_cast<int64_t>(random() % static_cast<uint64_t>(most)); };
  for (const int64_t n : {1, 3, 60}) {
    std::vector<int64_t> offsets{0}, times, asked_at;
    std::vector<int32_t> items;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t length = draw(25); length > 0; --length)
        items.push_back(static_cast<int32_t>(draw(info.n_items + 1) - 1));
      offsets.push_back(static_cast<int64_t>(items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) times.push_back(draw(1000000));
    for (int64_t i = 0; i < n; ++i) asked_at.push_back(draw(2000000));
    regard_histories histories{};
    histories.struct_size = sizeof histories;
    histories.items = items.data(), histories.offsets = offsets.data(), histories.n = n;
    histories.times = times.data(), histories.asked_at = asked_at.data();
    Answers answers(n, &histories);
    regard_recommend(model, &answers.args);
    answers.args.exclude_seen = 0;
    regard_recommend(model, &answers.args);
    answers.args.allow_offsets = answers.args.deny_offsets = offsets.data();
    answers.args.allow = answers.args.deny = items.data();
    regard_recommend(model, &answers.args);
    std::vector<float> h(static_cast<size_t>(n * info.dim));
    regard_encode(model, &histories, h.data());
  }
  regard_session* session = nullptr;
  if (regard_session_open(model, &session) != REGARD_OK) return;
  int64_t time = draw(1000000);
  const regard_histories asked{sizeof asked, nullptr, nullptr, 1, nullptr, &time};
  Answers answers(1, info.timed ? &asked : nullptr);
  for (int64_t i = 0; i < 2 * (info.max_len < 40 ? info.max_len : 40); ++i) {
    const auto item = static_cast<int32_t>(draw(info.n_items));
    time += draw(100000);
    regard_session_append(session, &item, &time, 1);
    time += draw(100000);
    answers.args.exclude_seen = static_cast<int>(i % 2);
    regard_session_recommend(session, &answers.args);
  }
  std::vector<int64_t> times(static_cast<size_t>(info.max_len));
  std::vector<int32_t> window(static_cast<size_t>(info.max_len));
  int64_t size = 0;
  regard_session_window(session, window.data(), times.data(), info.max_len, &size);
  regard_session_close(session);
}

regard_model* open_copy(const std::string& bytes,
                        char** copy) {  // exactly as large as it is, to see what is read beyond
  *copy = static_cast<char*>(std::malloc(bytes.size()));
  bytes.copy(*copy, bytes.size());
  regard_model* model = nullptr;
  return regard_model_open_memory(*copy, bytes.size(), &model) == REGARD_OK ? model : nullptr;
}

void damage(const std::string& bytes, int rounds) {
  std::mt19937 random(1);
  const std::string marks = "0123456789\",:}{][-e.";
  for (int round = 0; round < rounds; ++round) {
    std::string damaged = bytes;
    const size_t end = round % 2 == 0 ? bytes.size() : std::min<size_t>(bytes.size(), 12000);
    for (unsigned i = 0; i <= random() % 3; ++i)
      damaged[random() % end] = random() % 2 ? marks[random() % marks.size()] : static_cast<char>(random());
    if (round % 5 == 0) damaged.resize(random() % bytes.size() + 1);
    char* copy = nullptr;
    if (regard_model* model = open_copy(damaged, &copy)) {
      answer(model, static_cast<unsigned>(round));
      regard_model_close(model);
    }
    std::free(copy);
  }
}

void share(const char* path) {
  regard_model* model = nullptr;
  need(regard_model_open(path, &model) == REGARD_OK, path);
  regard_model_info info{};
  info.struct_size = sizeof info;
  regard_model_describe(model, &info);
  regard_session* session = nullptr;
  regard_session_open(model, &session);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([=] {
      const int64_t time = 1000;
      const regard_histories asked{sizeof asked, nullptr, nullptr, 1, nullptr, &time};
      Answers answers(1, info.timed ? &asked : nullptr);
      for (unsigned i = 0; i < 20; ++i) {
        answer(model, t * 100 + i);
        const auto item = static_cast<int32_t>(i % 5);
        regard_session_append(session, &item, &time, 1);
        regard_session_recommend(session, &answers.args);
        if (t == 0 && i == 15) regard_model_close(model);
        if (t == 1 && i == 17) regard_session_close(session);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = std::atoi(argv[1]);
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    char* copy = nullptr;
    regard_model* model = open_copy(bytes, &copy);
    need(model != nullptr, argv[i]);
    answer(model, 0);
    regard_model_close(model);
    std::free(copy);
    damage(bytes, rounds);
    share(argv[i]);
  }
  std::puts("done");
}
