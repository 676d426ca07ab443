#include "models/weights/source.h"

#include "base/error.h"
#include "models/weights/dtypes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>

namespace trestle::models::weights {
namespace {

namespace fs = std::filesystem;

/// By its name, and where that says nothing, by how it begins.
bool is_torch_file(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return false;
  constexpr std::array<std::string_view, 4> kTorch = {".pt", ".pth", ".bin", ".ckpt"};
  constexpr std::array<std::string_view, 2> kSafetensors = {".safetensors", ".json"};
  const std::string extension = path.extension().string();
  if (std::ranges::count(kTorch, extension) > 0) return true;
  if (std::ranges::count(kSafetensors, extension) > 0) return false;
  const FileReader file(path, ExitCode::data);
  std::array<char, 2> start{};
  if (file.size_bytes() < start.size()) return false;
  file.read_exact(0, std::as_writable_bytes(std::span(start)));
  return start == std::array{'P', 'K'};
}

std::vector<formats::StoredTensor> tensors_of(const formats::ShardedSafetensors& weights) {
  std::vector<formats::StoredTensor> tensors;
  for (std::size_t file = 0; file < weights.shards().size(); ++file) {
    for (const formats::TensorEntry& entry : weights.shards()[file].entries()) {
      tensors.push_back({.name = entry.name,
                         .dtype = entry.dtype,
                         .shape = entry.shape,
                         .strides = {},
                         .file = file,
                         .begin_bytes = entry.begin_bytes,
                         .span_bytes = entry.size_bytes()});
    }
  }
  return tensors;
}

}  // namespace

Source::Source(fs::path path, Held held) : path_(std::move(path)), held_(std::move(held)) {
  if (const auto* safe = std::get_if<formats::ShardedSafetensors>(&held_)) {
    tensors_ = tensors_of(*safe);
    for (const auto& shard : safe->shards())
      metadata_.insert(shard.metadata().begin(), shard.metadata().end());
  } else {
    tensors_ = std::get<formats::TorchZip>(held_).tensors();
  }
  for (const auto& tensor : tensors_) index_.emplace(tensor.name, index_.size());
}

Source Source::open(const fs::path& path, std::string_view variant) {
  if (is_torch_file(path)) return {path, formats::TorchZip::open(path)};
  auto weights = formats::ShardedSafetensors::open(path, variant);
  fs::path found = weights.path();
  return {std::move(found), std::move(weights)};
}

const char* Source::format() const {
  if (std::holds_alternative<formats::TorchZip>(held_)) return "torch.save";
  return files() == 1 ? "safetensors" : "sharded safetensors";
}

std::size_t Source::files() const {
  const auto* safe = std::get_if<formats::ShardedSafetensors>(&held_);
  return safe == nullptr ? 1 : safe->shards().size();
}

std::size_t Source::other_values() const {
  const auto* zip = std::get_if<formats::TorchZip>(&held_);
  return zip == nullptr ? 0 : zip->other_values();
}

const formats::StoredTensor* Source::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const FileReader& Source::reader(std::size_t file) const {
  if (const auto* zip = std::get_if<formats::TorchZip>(&held_)) return zip->bytes();
  return std::get<formats::ShardedSafetensors>(held_).shards().at(file).bytes();
}

void Source::read(const formats::StoredTensor& tensor, std::uint64_t offset_bytes,
                  std::span<std::byte> into) const {
  TRESTLE_ASSERT(
      offset_bytes <= tensor.span_bytes && into.size() <= tensor.span_bytes - offset_bytes,
      "{} bytes at {} of tensor {}", into.size(), offset_bytes, tensor.name);
  reader(tensor.file).read_exact(tensor.begin_bytes + offset_bytes, into);
}

at::Tensor read_tensor(const Source& source, const formats::StoredTensor& tensor) {
  const auto elements =
      static_cast<std::int64_t>(tensor.span_bytes / formats::element_bytes(tensor.dtype));
  // Only what the file holds is allocated, however large a shape its strides make of it.
  const at::Tensor bytes =
      at::empty({elements}, at::TensorOptions().dtype(scalar_type_of(tensor.dtype)));
  source.read(tensor, 0, {static_cast<std::byte*>(bytes.mutable_data_ptr()), tensor.span_bytes});
  return tensor.strides.empty() ? bytes.view(tensor.shape)
                                : bytes.as_strided(tensor.shape, tensor.strides);
}

std::map<std::string, at::Tensor> read_all(const fs::path& path) {
  const Source source = Source::open(path);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& tensor : source.tensors())
    tensors.emplace(tensor.name, read_tensor(source, tensor));
  return tensors;
}

}  // namespace trestle::models::weights
