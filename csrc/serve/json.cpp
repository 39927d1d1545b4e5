#include "serve/json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>

namespace regard {

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json whole_text() {
    Json value = this->value(0);
    blanks();
    if (at_ < text_.size()) fail("the end");
    return value;
  }

 private:
  static constexpr int kDepth = 64;

  [[noreturn]] void fail(const char* expected) const {
    throw std::invalid_argument("JSON: expected " + std::string(expected) + " at byte " + std::to_string(at_));
  }
  bool more() const { return at_ < text_.size(); }
  char next() const { return more() ? text_[at_] : '\0'; }
  void blanks() {
    while (more() && (next() == ' ' || next() == '\t' || next() == '\n' || next() == '\r')) ++at_;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void need(char c, const char* expected) {
    blanks();
    if (!more() || next() != c) fail(expected);
    ++at_;
  }

  Json value(int depth) {
    if (depth > kDepth) fail("at most 64 levels");
    blanks();
    Json made;
    if (take("null")) return made;
    if (const bool yes = take("true"); yes || take("false")) {
      made.kind_ = Json::Kind::flag, made.flag_ = yes;
    } else if (next() == '"') {
      made.kind_ = Json::Kind::text, made.text_ = string();
    } else if (next() == '[') {
      made.kind_ = Json::Kind::list;
      items(']', [&] { made.list_.push_back(value(depth + 1)); });
    } else if (next() == '{') {
      made.kind_ = Json::Kind::object;
      items('}', [&] {
        blanks();
        if (next() != '"') fail("a key");
        std::string key = string();
        need(':', "a colon");
        made.entries_.emplace_back(std::move(key), value(depth + 1));
      });
      by_key(made.entries_);
    } else {
      number(made);
    }
    return made;
  }

  template <class F>
  void items(char end, F&& item) {
    ++at_;
    blanks();
    if (more() && next() == end) {
      ++at_;
      return;
    }
    for (;;) {
      item();
      blanks();
      if (more() && next() == end) break;
      need(',', "a comma or the end of a list or an object");
    }
    ++at_;
  }

  void by_key(std::vector<std::pair<std::string, Json>>& entries) const {
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
    if (std::adjacent_find(entries.begin(), entries.end(), same) != entries.end()) fail("each key once");
  }

  void number(Json& made) {
    made.kind_ = Json::Kind::real;
    if (take("NaN")) {
      made.real_ = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    const size_t begin = at_;
    const bool negative = take("-");
    if (take("Infinity")) {
      made.real_ = negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
      return;
    }
    if (!take("0") && !digits()) fail("a value");
    bool fraction = false;
    if (take(".")) {
      fraction = true;
      if (!digits()) fail("a digit");
    }
    if (take("e") || take("E")) {
      fraction = true;
      if (!take("+")) take("-");
      if (!digits()) fail("a digit");
    }
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    if (!fraction && std::from_chars(first, last, made.whole_).ec == std::errc()) {
      made.kind_ = Json::Kind::whole, made.real_ = static_cast<double>(made.whole_);
      return;
    }
    if (std::from_chars(first, last, made.real_).ec != std::errc()) fail("a number in the range of a double");
  }
  bool digits() {
    const size_t begin = at_;
    while (more() && next() >= '0' && next() <= '9') ++at_;
    return at_ > begin;
  }

  std::string string() {
    std::string made;
    ++at_;
    for (;;) {
      if (!more()) fail("the end of a text");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fail("no control character in a text");
      if (c == '\\')
        escape(made);
      else if (c < 0x80)
        made += text_[at_++];
      else
        wide(c, made);
    }
    ++at_;
    return made;
  }

  void wide(unsigned char lead, std::string& made) {  // UTF-8 without overlong forms and surrogates
    const size_t size = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : (lead & 0xF0) == 0xE0        ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 0;
    if (size == 0 || text_.size() - at_ < size) fail("UTF-8");
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text_[at_ + i]); };
    for (size_t i = 1; i < size; ++i)
      if ((byte(i) & 0xC0) != 0x80) fail("UTF-8");
    const unsigned char second = byte(1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F))
      fail("UTF-8");
    made.append(text_.substr(at_, size));
    at_ += size;
  }

  void escape(std::string& made) {
    ++at_;
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    if (!more()) fail("an escape");
    if (const size_t which = kNames.find(next()); which != std::string_view::npos) {
      made += kValues[which];
      ++at_;
      return;
    }
    uint32_t code = unit();
    if (code >= 0xDC00 && code < 0xE000) fail("a surrogate pair");
    if (code >= 0xD800 && code < 0xDC00) {
      if (next() != '\\') fail("a surrogate pair");
      ++at_;
      const uint32_t low = unit();
      if (low < 0xDC00 || low >= 0xE000) fail("a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    const auto put = [&](uint32_t byte) { made += static_cast<char>(byte); };
    if (code < 0x80) return put(code);
    if (code < 0x800) return put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
    if (code < 0x10000)
      put(0xE0 | code >> 12);
    else
      put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
  uint32_t unit() {  // uXXXX
    if (!take("u") || text_.size() - at_ < 4) fail("an escape");
    uint32_t code = 0;
    const char* first = text_.data() + at_;
    if (std::from_chars(first, first + 4, code, 16).ptr != first + 4) fail("four hexadecimal digits");
    at_ += 4;
    return code;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).whole_text(); }

void Json::expect(Kind kind, const char* what) const {
  if (kind_ != kind) throw std::invalid_argument(std::string("expected ") + what);
}

const Json* Json::find(std::string_view key) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), key,
                                      [](const auto& entry, std::string_view wanted) { return entry.first < wanted; });
  return found != entries_.end() && found->first == key ? &found->second : nullptr;
}

const Json& Json::at(std::string_view key) const {
  if (const Json* found = find(key)) return *found;
  throw std::invalid_argument("header: expected an entry '" + std::string(key) + "'");
}

namespace {
template <class F>
auto named(std::string_view key, F&& read) -> decltype(read()) {
  try {
    return read();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("header: " + std::string(key) + ": " + error.what());
  }
}
}  // namespace

const std::string& Json::text(std::string_view key) const {
  const Json& entry = at(key);
  return named(key, [&]() -> const std::string& { return entry.text(); });
}
int64_t Json::whole(std::string_view key) const {
  const Json& entry = at(key);
  return named(key, [&] { return entry.whole(); });
}
double Json::number(std::string_view key) const {
  const Json& entry = at(key);
  if (entry.kind_ != Kind::whole) named(key, [&] { entry.expect(Kind::real, "a number"); });
  return entry.real_;
}
bool Json::flag(std::string_view key) const {
  const Json& entry = at(key);
  named(key, [&] { entry.expect(Kind::flag, "true or false"); });
  return entry.flag_;
}

const std::string& Json::text() const {
  expect(Kind::text, "a text");
  return text_;
}
int64_t Json::whole() const {
  expect(Kind::whole, "a whole number");
  return whole_;
}
const std::vector<Json>& Json::list() const {
  expect(Kind::list, "a list");
  return list_;
}
const std::vector<std::pair<std::string, Json>>& Json::entries() const {
  expect(Kind::object, "an object");
  return entries_;
}

}  // namespace regard
