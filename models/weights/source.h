// Weights on disk, whatever they lie in: a safetensors file, a folder of shards with its index, or
// a .pt, .pth, .bin of torch.save. Opening reads names and places only; bytes are fetched by pread.
//
// LOCAL. THREADS: may be read by several at once. ERRORS: Error(data), naming the file.
//   const Source source = Source::open("sana/transformer");
//   for (const formats::StoredTensor& tensor : source.tensors()) ... read_tensor(source, tensor)
//   ...
#pragma once
#include "formats/sharded_safetensors.h"
#include "formats/stored_tensor.h"
#include "formats/torch_zip.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace trestle::models::weights {

class Source {
 public:
  /// `path`: a file, an index of shards, or a hub folder, of whose files `variant` ("fp16") takes
  /// others than the plain ones.
  static Source open(const std::filesystem::path& path, std::string_view variant = {});

  const std::filesystem::path& path() const { return path_; }  ///< the file or the index
  const char* format() const;                                  ///< in a word or two
  std::size_t files() const;
  const std::filesystem::path& file(std::size_t index) const { return reader(index).path(); }
  const std::vector<formats::StoredTensor>& tensors() const { return tensors_; }
  const formats::StoredTensor* find(std::string_view name) const;  ///< nullptr: not there
  /// Of a safetensors file; of shards, what the first of them says to each key.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::size_t other_values() const;  ///< texts and numbers that a file of torch.save also holds

  /// Bytes of the tensor from `offset_bytes` of its span on.
  void read(const formats::StoredTensor& tensor, std::uint64_t offset_bytes,
            std::span<std::byte> into) const;

 private:
  using Held = std::variant<formats::ShardedSafetensors, formats::TorchZip>;
  Source(std::filesystem::path path, Held held);
  const FileReader& reader(std::size_t file) const;

  std::filesystem::path path_;
  Held held_;
  std::vector<formats::StoredTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // name -> position in tensors_
  std::map<std::string, std::string> metadata_;
};

/// One tensor, on the CPU, in the file's dtype and with its strides.
at::Tensor read_tensor(const Source& source, const formats::StoredTensor& tensor);

/// All tensors by name.
std::map<std::string, at::Tensor> read_all(const std::filesystem::path& path);

}  // namespace trestle::models::weights
