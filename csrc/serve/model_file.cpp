#include "serve/model_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <stdexcept>

namespace regard {

namespace {

constexpr uint64_t kLargestHeader = 100000000;  // what the safetensors package reads
constexpr int kFormat = 1;                      // the newest major version that is read
constexpr const char* kKind = "self_attention";

[[noreturn]] void damaged(const std::string& what) { throw std::invalid_argument("truncated or damaged: " + what); }

struct Stored {
  const char* name;
  Type type;
  int64_t bytes;
};
constexpr Stored kTypes[] = {
    {"F32", Type::f32, 4}, {"F64", Type::f64, 8}, {"I32", Type::i32, 4}, {"I64", Type::i64, 8}, {"U8", Type::u8, 1}};

struct Piece {
  int64_t begin, end;
};

// One entry of the header: the tensor, where it lies in the data, checked against each other.
Piece add_tensor(const std::string& name, const Json& entry, std::string_view data, Tensors& tensors) {
  const auto* kind = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const Stored& stored) { return entry.text("dtype") == stored.name; });
  if (kind == std::end(kTypes)) damaged("tensor '" + name + "' is of an unknown type");
  const std::vector<Json>& offsets = entry.at("data_offsets").list();
  if (offsets.size() != 2) damaged("tensor '" + name + "': expected two offsets");
  const Piece piece{offsets[0].whole(), offsets[1].whole()};
  if (piece.begin < 0 || piece.end < piece.begin || piece.end > static_cast<int64_t>(data.size()))
    damaged("tensor '" + name + "' does not lie in the file");
  Tensor tensor;
  tensor.type = kind->type;
  int64_t bytes = kind->bytes;
  for (const Json& size : entry.at("shape").list()) {
    tensor.shape.push_back(size.whole());
    if (tensor.shape.back() < 0 || __builtin_mul_overflow(bytes, tensor.shape.back(), &bytes))
      damaged("the shape of tensor '" + name + "'");
  }
  if (bytes != piece.end - piece.begin) damaged("tensor '" + name + "' does not have the bytes of its shape");
  tensor.data = data.data() + piece.begin;
  if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(kind->bytes) != 0)
    damaged("tensor '" + name + "' does not begin at a multiple of its type's size");
  tensors.add(name, std::move(tensor));
  return piece;
}

void check_format(const Json& header) {
  const std::string& version = header.text("format_version");
  int major = 0;
  const char* end = version.data() + version.size();
  const auto [at, error] = std::from_chars(version.data(), end, major);
  if (error != std::errc() || at == end || *at != '.') damaged("format_version");
  if (major > kFormat)
    throw std::invalid_argument("format " + version + ": this version reads up to " + std::to_string(kFormat) +
                                ".x: a newer regard is needed");
}

}  // namespace

std::shared_ptr<Model> read_model(std::string_view file, std::shared_ptr<const void> keep) {
  uint64_t size = 0;
  if (file.size() < sizeof size) damaged("no header");
  for (size_t i = 0; i < sizeof size; ++i) size |= static_cast<uint64_t>(static_cast<unsigned char>(file[i])) << 8 * i;
  if (size > kLargestHeader || size > file.size() - sizeof size) damaged("the header does not lie in the file");
  const std::string_view data = file.substr(sizeof size + size);
  const Json outer = Json::parse(file.substr(sizeof size, size));
  Tensors tensors;
  std::vector<Piece> pieces;
  for (const auto& [name, entry] : outer.entries())
    if (name != "__metadata__") pieces.push_back(add_tensor(name, entry, data, tensors));
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  int64_t at = 0;
  for (const Piece& piece : pieces) {
    if (piece.begin != at) damaged("tensors overlap or leave a gap");
    at = piece.end;
  }
  if (at != static_cast<int64_t>(data.size())) damaged("bytes after the last tensor");
  const Json* metadata = outer.find("__metadata__");
  if (metadata == nullptr || metadata->find("regard") == nullptr)
    throw std::invalid_argument("not a regard model: a safetensors file without a `regard` entry");
  const Json header = Json::parse(metadata->text("regard"));
  check_format(header);
  if (const std::string& kind = header.text("kind"); kind != kKind)
    throw std::invalid_argument("a model of kind '" + kind + "': expected '" + kKind + "'");
  auto model = std::make_shared<Model>(header, tensors, std::move(keep));
  tensors.check_finite(model->encoder().n_items());
  return model;
}

std::shared_ptr<Model> open_model(const char* path) {
  struct File {
    int descriptor;
    ~File() {
      if (descriptor >= 0) close(descriptor);
    }
  };
  const auto fail = [&](const std::string& what) { throw std::invalid_argument(std::string(path) + ": " + what); };
  const File file{open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status{};
  if (file.descriptor < 0 || fstat(file.descriptor, &status) != 0) fail(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("not a file");
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) fail("truncated or damaged: empty");
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor, 0);
  if (memory == MAP_FAILED) fail(std::strerror(errno));
  std::shared_ptr<const void> mapped(memory, [size](const void* at) { munmap(const_cast<void*>(at), size); });
  try {
    return read_model({static_cast<const char*>(memory), size}, std::move(mapped));
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string(path) + ": " + error.what());
  }
}

}  // namespace regard
