#include "formats/safetensors.h"

#include "base/error.h"
#include "formats/strict_json.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

namespace trestle::formats {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kHeaderDepth = 3;     // header, tensor, shape
constexpr std::size_t kMaxDimensions = 64;  // torch's and numpy's limit
constexpr const char* kMetadataKey = "__metadata__";

/// Bytes of a tensor, or nothing where they cannot be counted in 64 bits.
std::optional<std::uint64_t> tensor_bytes(ElementType dtype, std::span<const std::int64_t> shape) {
  std::uint64_t bytes = element_bytes(dtype);
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(size), &bytes)) {
      return std::nullopt;
    }
  }
  return bytes;
}

/// Turns the header's text into checked entries. Its methods throw JsonProblem, so that one place
/// (SafetensorsFile::open) says which file it was.
class HeaderReader {
 public:
  /// `data_begin`, `data_end`: where in the file the tensors' bytes lie.
  HeaderReader(std::uint64_t data_begin, std::uint64_t data_end)
      : data_begin_(data_begin), data_end_(data_end) {}

  void read(std::string_view text) {
    if (!text.starts_with('{')) throw JsonProblem("its header does not begin with {");
    const json header = parse_json_object(text, kHeaderDepth);
    for (const auto& [key, value] : header.items()) {
      if (key == kMetadataKey) {
        read_metadata(value);
      } else {
        entries.push_back(read_entry(key, value));
      }
    }
    std::ranges::sort(entries, {}, [](const TensorEntry& entry) {
      return std::tie(entry.begin_bytes, entry.end_bytes, entry.name);
    });
    check_cover();
  }

  std::vector<TensorEntry> entries;
  std::map<std::string, std::string> metadata;

 private:
  template <class... Args>
  [[noreturn]] static void refuse_tensor(std::string_view name, fmt::format_string<Args...> format,
                                         Args&&... args) {
    throw JsonProblem(fmt::format("tensor {}: {}", shown(name),
                                  fmt::format(format, std::forward<Args>(args)...)));
  }

  void read_metadata(const json& value) {
    if (!value.is_object()) throw JsonProblem("__metadata__ is not an object of strings");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) {
        throw JsonProblem(fmt::format("__metadata__ has {} for {}, but holds only strings",
                                      text.type_name(), shown(key)));
      }
      metadata.emplace(key, text.get<std::string>());
    }
  }

  TensorEntry read_entry(const std::string& name, const json& value) const {
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
        !value.contains("shape") || !value.contains("data_offsets")) {
      refuse_tensor(name, "it is not an object of exactly dtype, shape and data_offsets");
    }
    TensorEntry entry{name, read_dtype(name, value["dtype"]), read_shape(name, value["shape"])};
    const auto [begin, end] = read_offsets(name, value["data_offsets"]);
    const auto bytes = tensor_bytes(entry.dtype, entry.shape);
    if (!bytes) refuse_tensor(name, "its shape [{}] overflows", fmt::join(entry.shape, ", "));
    if (*bytes != end - begin) {
      refuse_tensor(name, "{} [{}] takes {} bytes, but its data_offsets span {}",
                    safetensors_name(entry.dtype), fmt::join(entry.shape, ", "), *bytes,
                    end - begin);
    }
    entry.begin_bytes = data_begin_ + begin;
    entry.end_bytes = data_begin_ + end;
    return entry;
  }

  static ElementType read_dtype(std::string_view name, const json& value) {
    if (!value.is_string()) refuse_tensor(name, "its dtype is not a string");
    const auto& text = value.get_ref<const std::string&>();
    const auto dtype = element_type_of_safetensors(text);
    if (!dtype) refuse_tensor(name, "its dtype {} is not known here", shown(text));
    return *dtype;
  }

  static std::vector<std::int64_t> read_shape(std::string_view name, const json& value) {
    if (!value.is_array()) refuse_tensor(name, "its shape is not a list");
    if (value.size() > kMaxDimensions) {
      refuse_tensor(name, "its shape has {} dimensions, and {} are the most", value.size(),
                    kMaxDimensions);
    }
    std::vector<std::int64_t> shape;
    for (const json& size : value) shape.push_back(read_count(name, "shape", size));
    return shape;
  }

  std::pair<std::uint64_t, std::uint64_t> read_offsets(std::string_view name,
                                                       const json& value) const {
    if (!value.is_array() || value.size() != 2) {
      refuse_tensor(name, "its data_offsets are not two numbers");
    }
    const auto begin = static_cast<std::uint64_t>(read_count(name, "data_offsets", value[0]));
    const auto end = static_cast<std::uint64_t>(read_count(name, "data_offsets", value[1]));
    const std::uint64_t available = data_end_ - data_begin_;
    if (begin > end || end > available) {
      refuse_tensor(name, "its data_offsets {}..{} do not lie within the file's {} data bytes",
                    begin, end, available);
    }
    return {begin, end};
  }

  static std::int64_t read_count(std::string_view name, std::string_view what, const json& value) {
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMax) {
      refuse_tensor(name, "its {} holds something other than a count", what);
    }
    return value.get<std::int64_t>();
  }

  void check_cover() const {
    std::uint64_t covered = data_begin_;
    for (const TensorEntry& entry : entries) {
      if (entry.begin_bytes < covered) refuse_tensor(entry.name, "it overlaps another tensor");
      if (entry.begin_bytes > covered) {
        refuse_tensor(entry.name, "{} bytes before it belong to no tensor",
                      entry.begin_bytes - covered);
      }
      covered = entry.end_bytes;
    }
    if (covered != data_end_) {
      throw JsonProblem(fmt::format("its last {} bytes belong to no tensor", data_end_ - covered));
    }
  }

  std::uint64_t data_begin_;
  std::uint64_t data_end_;
};

std::uint64_t read_header_length(const FileReader& file) {
  if (file.size_bytes() < kLengthBytes) {
    throw JsonProblem(fmt::format("it has only {} bytes", file.size_bytes()));
  }
  std::uint64_t length = 0;
  file.read_exact(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kMaxHeaderBytes) {
    throw JsonProblem(fmt::format("it claims a header of {} bytes, and {} are the most", length,
                                  kMaxHeaderBytes));
  }
  if (length > file.size_bytes() - kLengthBytes) {
    throw JsonProblem(fmt::format("it claims a header of {} bytes, but only {} follow", length,
                                  file.size_bytes() - kLengthBytes));
  }
  return length;
}

/// What write_safetensors puts before the tensors, which are in file order here.
std::string make_header(const std::vector<const TensorToWrite*>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::uint64_t begin = 0;
  for (const TensorToWrite* tensor : tensors) {
    const std::uint64_t end = begin + tensor->bytes.size();
    header.push_back({tensor->name,
                      {{"dtype", safetensors_name(tensor->dtype)},
                       {"shape", tensor->shape},
                       {"data_offsets", {begin, end}}}});
    begin = end;
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  return text;
}

void write(std::ofstream& file, std::span<const std::byte> bytes) {
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

[[noreturn]] void fail_to_write(const std::filesystem::path& path) {
  fail(ExitCode::environment,
       "{} could not be written ({}). Check the rights and the free space of its folder.",
       path.string(), std::generic_category().message(errno));
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile result{FileReader(path, ExitCode::data)};
  const FileReader& file = result.file_;
  try {
    std::string text(read_header_length(file), '\0');
    file.read_exact(kLengthBytes, std::as_writable_bytes(std::span(text)));
    HeaderReader header(kLengthBytes + text.size(), file.size_bytes());
    header.read(text);
    result.entries_ = std::move(header.entries);
    result.metadata_ = std::move(header.metadata);
  } catch (const JsonProblem& problem) {
    fail(ExitCode::data, "{} is not a whole safetensors file ({}). Download or export it again.",
         path.string(), problem.what());
  }
  for (const TensorEntry& entry : result.entries_) {
    result.index_.emplace(entry.name, result.index_.size());
  }
  return result;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void SafetensorsFile::read(const TensorEntry& entry, std::span<std::byte> into) const {
  TRESTLE_ASSERT(into.size() == entry.size_bytes(), "{} bytes for the tensor {} of {} bytes",
                 into.size(), shown(entry.name), entry.size_bytes());
  file_.read_exact(entry.begin_bytes, into);
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const TensorToWrite*> in_file_order;
  std::set<std::string_view> names;
  for (const TensorToWrite& tensor : tensors) {
    TRESTLE_ASSERT(tensor_bytes(tensor.dtype, tensor.shape) == tensor.bytes.size(),
                   "tensor {}: {} [{}] with {} bytes", shown(tensor.name),
                   safetensors_name(tensor.dtype), fmt::join(tensor.shape, ", "),
                   tensor.bytes.size());
    TRESTLE_ASSERT(tensor.name != kMetadataKey && names.insert(tensor.name).second,
                   "two tensors named {}, or one like the metadata", shown(tensor.name));
    in_file_order.push_back(&tensor);
  }
  // Wide types first, so that every tensor is aligned.
  std::ranges::sort(in_file_order, [](const TensorToWrite* a, const TensorToWrite* b) {
    return std::tie(b->dtype, a->name) < std::tie(a->dtype, b->name);
  });

  std::string header;
  try {
    header = make_header(in_file_order, metadata);
  } catch (const json::type_error& error) {
    fail(ExitCode::data,
         "{} cannot be written (a tensor's name or its metadata is not UTF-8: "
         "{}). Give it UTF-8 text.",
         path.string(), error.what());
  }
  const std::uint64_t length = header.size();
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  try {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    write(file, std::as_bytes(std::span(&length, 1)));
    write(file, std::as_bytes(std::span(header)));
    for (const TensorToWrite* tensor : in_file_order) write(file, tensor->bytes);
    file.close();
    if (!file) fail_to_write(path);
    fsync_file(temporary, ExitCode::environment);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) fail_to_write(path);
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
  fsync_directory(path.has_parent_path() ? path.parent_path() : ".", ExitCode::environment);
}

}  // namespace trestle::formats
