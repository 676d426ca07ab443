#include "checkpoint/index_file.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/files.h"
#include "checkpoint/shard_reader.h"
#include "formats/hdf5_virtual.h"

#include <utility>
#include <vector>

namespace trestle::checkpoint {
namespace {

formats::H5Virtual shown_whole(const std::string& name, const TensorRecord& tensor,
                               const Manifest& manifest, ShardReader& reader) {
  formats::H5Virtual dataset{
      .name = name, .type = tensor.dtype, .shape = tensor.shape, .sources = {}};
  if (tensor.elements() == 0) return dataset;
  for (const PieceRecord& piece : tensor.pieces)
    dataset.sources.push_back(
        {manifest.files[piece.file].name, piece.dataset, piece.begin, piece.end});
  if (tensor.shape.empty()) {
    const PieceRecord& piece = tensor.pieces.front();
    dataset.elements.resize(piece.bytes);
    reader.read(piece.file, piece.offset, dataset.elements, name);
  }
  return dataset;
}

FileRecord record_of(std::span<const std::byte> content) {
  FileRecord record{.name = std::string(kIndexName), .bytes = content.size(), .block_digests = {}};
  for (std::size_t block = 0; record.block_begin(block) < record.bytes; ++block) {
    const std::uint64_t begin = record.block_begin(block);
    record.block_digests.push_back(
        digest_64(content.subspan(begin, record.block_end(block) - begin)));
  }
  return record;
}

}  // namespace

void write_index(const std::filesystem::path& folder, Manifest& manifest) {
  std::vector<formats::H5Virtual> datasets;
  ShardReader reader(folder, manifest);
  for (const auto& [name, tensor] : manifest.tensors)
    datasets.push_back(shown_whole(name, tensor, manifest, reader));
  const std::map<std::string, formats::H5Attribute> attributes(manifest.values.begin(),
                                                               manifest.values.end());
  const std::vector<std::byte> content = formats::virtual_h5(datasets, attributes);
  write_file_durable(folder / kIndexName,
                     {reinterpret_cast<const char*>(content.data()), content.size()},
                     ExitCode::checkpoint);
  manifest.files.push_back(record_of(content));
}

}  // namespace trestle::checkpoint
