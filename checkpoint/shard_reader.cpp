#include "checkpoint/shard_reader.h"

#include "base/digest.h"
#include "base/error.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

namespace trestle::checkpoint {
namespace {

/// Names what lies in bytes [begin, end) of a file: tensors, the largest part first, and HDF5's own
/// bytes between them.
std::string contents(const Manifest& manifest, std::size_t file, std::uint64_t begin,
                     std::uint64_t end) {
  constexpr std::size_t kNamesShown = 5;
  std::vector<std::pair<std::uint64_t, std::string_view>> parts;
  std::uint64_t in_tensors = 0;
  for (const auto& [name, tensor] : manifest.tensors) {
    std::uint64_t here = 0;
    for (const PieceRecord& piece : tensor.pieces) {
      const std::uint64_t from = std::max(piece.offset, begin);
      const std::uint64_t to = std::min(piece.offset + piece.bytes, end);
      if (piece.file == file && from < to) here += to - from;
    }
    if (here > 0) parts.emplace_back(here, name);
    in_tensors += here;
  }
  std::ranges::stable_sort(parts, std::greater<>(), &decltype(parts)::value_type::first);

  std::vector<std::string> texts;
  for (std::size_t i = 0; i < std::min(parts.size(), kNamesShown); ++i)
    texts.emplace_back(parts[i].second);
  if (parts.size() > kNamesShown)
    texts.push_back(fmt::format("{} other tensors", parts.size() - kNamesShown));
  if (in_tensors < end - begin) texts.emplace_back("HDF5 metadata");
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

FileReader open_file(const std::filesystem::path& checkpoint, const FileRecord& record) {
  FileReader file(checkpoint / record.name, ExitCode::checkpoint);
  if (file.size_bytes() != record.bytes)
    fail(ExitCode::checkpoint, "{} has {} bytes (its manifest says {}). Use another checkpoint.",
         file.path().string(), file.size_bytes(), record.bytes);
  return file;
}

ShardReader::ShardReader(std::filesystem::path checkpoint, const Manifest& manifest)
    : checkpoint_(std::move(checkpoint)), manifest_(manifest), kept_(kBlockBytes) {}

void ShardReader::read(std::size_t file, std::uint64_t offset_bytes, std::span<std::byte> into,
                       std::string_view tensor) {
  if (into.empty()) return;
  if (!open_ || file != file_) {
    open_ = open_file(checkpoint_, manifest_.files.at(file));
    file_ = file;
    kept_block_.reset();
  }
  const FileRecord& record = manifest_.files[file];
  while (!into.empty()) {
    const std::size_t block = offset_bytes / kBlockBytes;
    const std::uint64_t block_bytes = record.block_end(block) - record.block_begin(block);
    const std::uint64_t skip = offset_bytes - record.block_begin(block);
    const std::uint64_t wanted = std::min<std::uint64_t>(block_bytes - skip, into.size());
    if (wanted == block_bytes) {
      read_block(block, into.first(wanted), tensor);
    } else {
      if (kept_block_ != block) {
        kept_block_.reset();
        read_block(block, std::span(kept_).first(block_bytes), tensor);
        kept_block_ = block;
      }
      std::memcpy(into.data(), kept_.data() + skip, wanted);
    }
    offset_bytes += wanted;
    into = into.subspan(wanted);
  }
}

void ShardReader::read_block(std::size_t block, std::span<std::byte> into,
                             std::string_view tensor) {
  const FileRecord& record = manifest_.files[file_];
  open_->read_exact(record.block_begin(block), into);
  bytes_read_ += into.size();
  if (digest_64(into) != record.block_digests[block])
    fail(
        ExitCode::checkpoint,
        "{} is damaged in bytes [{}, {}), where tensor {} lies (the block does not have the digest "
        "in its manifest). Use another checkpoint.",
        open_->path().string(), record.block_begin(block), record.block_end(block), tensor);
}

std::vector<Damage> verify(const std::filesystem::path& checkpoint) {
  Manifest manifest;
  try {
    manifest = read_manifest(checkpoint);
  } catch (const Error& error) {
    return {{std::string(kManifestName), 0, 0, error.what()}};
  }
  std::vector<Damage> found;
  std::vector<std::byte> buffer(kBlockBytes);
  for (std::size_t file = 0; file < manifest.files.size(); ++file) {
    const FileRecord& record = manifest.files[file];
    try {
      const FileReader reader = open_file(checkpoint, record);
      for (std::size_t block = 0; block < record.block_digests.size(); ++block) {
        const std::uint64_t begin = record.block_begin(block), end = record.block_end(block);
        const std::span<std::byte> bytes = std::span(buffer).first(end - begin);
        reader.read_exact(begin, bytes);
        if (digest_64(bytes) != record.block_digests[block])
          found.push_back({record.name, begin, end, contents(manifest, file, begin, end)});
      }
    } catch (const Error& error) {
      found.push_back({record.name, 0, record.bytes, error.what()});
    }
  }
  return found;
}

}  // namespace trestle::checkpoint
