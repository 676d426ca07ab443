#include "checkpoint/shard_reader.h"

#include "base/digest.h"
#include "base/error.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

namespace trestle::checkpoint {

std::string contents(const Manifest& manifest, std::size_t file, std::uint64_t begin,
                     std::uint64_t end, std::string_view tensor_named) {
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
  // (The algorithm of std::ranges is more than clang 14 can read in gcc's library.)
  std::stable_partition(parts.begin(), parts.end(),
                        [&](const auto& part) { return part.second == tensor_named; });

  std::vector<std::string> texts;
  for (std::size_t i = 0; i < std::min(parts.size(), kNamesShown); ++i)
    texts.push_back(fmt::format("tensor {}", parts[i].second));
  if (parts.size() > kNamesShown)
    texts.push_back(fmt::format("{} other tensors", parts.size() - kNamesShown));
  if (in_tensors < end - begin) texts.emplace_back("HDF5 metadata");
  return fmt::format("{}", fmt::join(texts, ", "));
}

FileReader open_file(const std::filesystem::path& checkpoint, const FileRecord& record) {
  const std::filesystem::path path = checkpoint / record.name;
  try {
    FileReader file(path, ExitCode::checkpoint);
    if (file.size_bytes() == record.bytes) return file;
    const std::uint64_t bytes = file.size_bytes();
    throw DamageError(
        fmt::format("{} has {} bytes (its manifest says {}). Use another checkpoint.",
                    path.string(), bytes, record.bytes),
        {record.name, std::min(bytes, record.bytes), std::max(bytes, record.bytes),
         fmt::format("the file has {} bytes and should have {}", bytes, record.bytes)});
  } catch (const FileError&) {
    rethrow_file_error(path, record.bytes);
  }
}

void read_block(const FileReader& reader, const Manifest& manifest, std::size_t file,
                std::size_t block, Places into, std::string_view tensor) {
  // Half of a core's fast memory or less: a digest of what has gone to slow memory and comes back
  // takes about as long as reading it from the page cache.
  constexpr std::uint64_t kPartBytes = std::uint64_t{256} << 10;
  const FileRecord& record = manifest.files[file];
  const std::uint64_t begin = record.block_begin(block), end = record.block_end(block);
  Digest64 digest;
  std::vector<std::span<std::byte>> part;
  std::size_t place = 0;
  std::uint64_t in_place = 0;
  for (std::uint64_t at = begin; at < end;) {
    const std::uint64_t bytes = std::min(kPartBytes, end - at);
    part.clear();
    for (std::uint64_t left = bytes; left > 0;) {
      const std::uint64_t here = std::min<std::uint64_t>(left, into[place].size() - in_place);
      part.push_back(into[place].subspan(in_place, here));
      left -= here;
      in_place += here;
      if (in_place == into[place].size()) ++place, in_place = 0;
    }
    try {
      reader.read_exact(at, part);
    } catch (const FileError&) {
      rethrow_file_error(reader.path(), record.bytes);
    }
    for (const std::span<std::byte> read : part) digest.add(read);
    at += bytes;
  }
  if (digest.take() == record.block_digests[block]) return;
  const std::string what = contents(manifest, file, begin, end, tensor);
  throw DamageError(
      fmt::format("{} is damaged in bytes [{}, {}), where {} lies (the block does not have the "
                  "digest in its manifest). Use another checkpoint.",
                  reader.path().string(), begin, end, what),
      {record.name, begin, end, what});
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
      const std::span<std::byte> place = into.first(wanted);
      read_block(*open_, manifest_, file, block, std::span(&place, 1), tensor);
    } else {
      if (kept_block_ != block) {
        kept_block_.reset();
        const std::span<std::byte> place = std::span(kept_).first(block_bytes);
        read_block(*open_, manifest_, file, block, std::span(&place, 1), tensor);
        kept_block_ = block;
      }
      std::memcpy(into.data(), kept_.data() + skip, wanted);
    }
    offset_bytes += wanted;
    into = into.subspan(wanted);
  }
}

}  // namespace trestle::checkpoint
