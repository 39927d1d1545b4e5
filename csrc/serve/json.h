// A strict reader of JSON (RFC 8259), for the headers of model files, which may be hostile.
//
// Beyond the standard it takes NaN, Infinity and -Infinity, as Python writes them. A key that comes twice, text that is
// not UTF-8, and more than 64 levels are refused.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace regard {

class Json {
 public:
  static Json parse(std::string_view text);  // throws std::invalid_argument that says where

  // Throw std::invalid_argument that names the key if it is missing or of another kind.
  const Json& at(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  int64_t whole(std::string_view key) const;
  double number(std::string_view key) const;
  bool flag(std::string_view key) const;

  const Json* find(std::string_view key) const;  // null if this is no object or lacks the key
  bool is_null() const { return kind_ == Kind::null; }
  const std::string& text() const;
  int64_t whole() const;
  const std::vector<Json>& list() const;
  const std::vector<std::pair<std::string, Json>>& entries() const;

 private:
  enum class Kind { null, flag, whole, real, text, list, object };
  friend class JsonReader;

  void expect(Kind kind, const char* what) const;

  Kind kind_ = Kind::null;
  bool flag_ = false;
  int64_t whole_ = 0;
  double real_ = 0.0;
  std::string text_;
  std::vector<Json> list_;
  std::vector<std::pair<std::string, Json>> entries_;
};

}  // namespace regard
