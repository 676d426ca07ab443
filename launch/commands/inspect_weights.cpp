#include "launch/commands/inspect_weights.h"

#include "base/error.h"
#include "configs/nearest.h"
#include "launch/commands/print_tensor.h"
#include "launch/commands/units.h"
#include "models/weights/source.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <system_error>

namespace trestle::launch {
namespace {

namespace fs = std::filesystem;
using formats::StoredTensor;
using models::weights::Source;
using nlohmann::ordered_json;

constexpr std::int64_t kAtOnce = 1 << 20;  // elements that are looked at as float64

std::string file_name(const Source& source, const StoredTensor& tensor) {
  return source.file(tensor.file).filename().string();
}

std::int64_t elements_held(const StoredTensor& tensor) {
  return static_cast<std::int64_t>(tensor.span_bytes / formats::element_bytes(tensor.dtype));
}

/// Unsigned, as all sums of them are: a hostile file may show as many as it likes.
std::uint64_t bytes_of(const StoredTensor& tensor) {
  return static_cast<std::uint64_t>(tensor.elements()) * formats::element_bytes(tensor.dtype);
}

TensorSummary summarise(const Source& source, const StoredTensor& stored) {
  TRESTLE_REQUIRE(stored.dtype != formats::ElementType::complex64,
                  "tensor {} is complex64 (its numbers have no order). Ask for another.",
                  formats::plain_name(stored.name));
  const auto held = elements_held(stored);
  TRESTLE_REQUIRE(
      stored.elements() <= held,
      "tensor {} shows {} elements of its file as {} (it was expanded). Ask for another.",
      formats::plain_name(stored.name), held, stored.elements());
  const at::Tensor flat = models::weights::read_tensor(source, stored).reshape({-1});
  TensorSummariser summariser;
  for (std::int64_t begin = 0; begin < flat.numel(); begin += kAtOnce)
    summariser.add(flat.narrow(0, begin, std::min(kAtOnce, flat.numel() - begin)));
  return summariser.summary();
}

const StoredTensor& find(const Source& source, const std::string& name) {
  const StoredTensor* found = source.find(name);
  if (found != nullptr) return *found;
  std::vector<std::string> names;
  for (const StoredTensor& tensor : source.tensors()) names.push_back(tensor.name);
  fail(ExitCode::usage, "{} has no tensor \"{}\" (it has {}). Did you mean {}?",
       source.path().string(), name, names.size(),
       formats::plain_name(configs::nearest(name, names)));
}

void print_tensor(const Source& source, const StoredTensor& tensor, bool json) {
  const ShownTensor shown{.name = tensor.name,
                          .shape = tensor.shape,
                          .dtype = tensor.dtype,
                          .summary = summarise(source, tensor)};
  if (json) {
    ordered_json object = json_of_tensor(shown);
    object["file"] = file_name(source, tensor);
    object["begin"] = tensor.begin_bytes;
    if (!tensor.strides.empty()) object["strides"] = tensor.strides;
    fmt::print("{}\n", object.dump(2));
    return;
  }
  print(shown);
  fmt::print(
      "  {} bytes at offset {} of {}{}\n", tensor.span_bytes, tensor.begin_bytes,
      file_name(source, tensor),
      tensor.strides.empty() ? "" : fmt::format(", strides [{}]", fmt::join(tensor.strides, ", ")));
}

void print_json(const Source& source) {
  ordered_json object = {
      {"weights", source.path().string()},     {"format", source.format()},
      {"files", ordered_json::array()},        {"metadata", source.metadata()},
      {"other_values", source.other_values()}, {"tensors", ordered_json::object()}};
  for (std::size_t i = 0; i < source.files(); ++i) {
    object["files"].push_back(
        {{"name", source.file(i).filename().string()}, {"bytes", fs::file_size(source.file(i))}});
  }
  for (const StoredTensor& tensor : source.tensors()) {
    object["tensors"][tensor.name] = {{"shape", tensor.shape},
                                      {"dtype", formats::element_name(tensor.dtype)},
                                      {"bytes", bytes_of(tensor)},
                                      {"file", file_name(source, tensor)}};
  }
  fmt::print("{}\n", object.dump(2));
}

void print_all(const Source& source) {
  std::uint64_t bytes = 0, elements = 0;
  std::map<std::string_view, std::size_t> dtypes;
  for (const StoredTensor& tensor : source.tensors()) {
    bytes += bytes_of(tensor);
    elements += static_cast<std::uint64_t>(tensor.elements());
    ++dtypes[formats::element_name(tensor.dtype)];
  }
  std::vector<std::string> counted;
  for (const auto& [name, count] : dtypes) counted.push_back(fmt::format("{} {}", count, name));
  fmt::print("{}\n  {}, {} {}: {} tensors ({}), {} numbers, {}\n", source.path().string(),
             source.format(), source.files(), source.files() == 1 ? "file" : "files",
             source.tensors().size(), fmt::join(counted, ", "), elements,
             bytes_text(static_cast<std::int64_t>(bytes)));
  if (source.other_values() > 0)
    fmt::print("  {} values that are no tensors\n", source.other_values());
  for (const auto& [key, value] : source.metadata())
    fmt::print("  metadata {} = {}\n", formats::plain_name(key), formats::plain_name(value));
  for (const StoredTensor& tensor : source.tensors()) {
    fmt::print("  {} {} [{}]{}\n", formats::plain_name(tensor.name),
               formats::element_name(tensor.dtype), fmt::join(tensor.shape, ", "),
               source.files() == 1 ? "" : fmt::format(" {}", file_name(source, tensor)));
  }
}

}  // namespace

bool is_weights(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return true;
  if (fs::exists(path / "manifest.json", ignored) || fs::exists(path / "checkpoints", ignored))
    return false;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".bin") ||
        name.find(".safetensors.index.") != name.npos) {
      return true;
    }
  }
  return false;
}

void inspect_weights(const fs::path& path, const std::string& variant, const std::string& tensor,
                     bool json) {
  const Source source = Source::open(path, variant);
  if (!tensor.empty())
    print_tensor(source, find(source, tensor), json);
  else if (json)
    print_json(source);
  else
    print_all(source);
}

}  // namespace trestle::launch
