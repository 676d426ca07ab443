// read_pieces() of shard_reader.h: the fast way to much of a checkpoint.
#include "base/deaf_thread.h"
#include "checkpoint/shard_reader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

namespace trestle::checkpoint {
namespace {

/// Blocks that a thread takes at once: enough for the disk to read in one go.
constexpr std::size_t kRunBlocks = 4;

/// Bytes of one block that are a part of one piece.
struct Part {
  std::size_t file, block;
  std::size_t piece;       ///< index
  std::uint64_t in_block;  ///< where they begin
  std::uint64_t in_piece;
  std::uint64_t bytes;
};

std::vector<Part> parts_of(const Manifest& manifest, std::span<const PieceRead> pieces) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const PieceRead& piece = pieces[i];
    const FileRecord& file = manifest.files.at(piece.file);
    for (std::uint64_t at = 0; at < piece.bytes;) {
      const std::size_t block = (piece.offset + at) / kBlockBytes;
      const std::uint64_t bytes =
          std::min(piece.bytes - at, file.block_end(block) - (piece.offset + at));
      parts.push_back({.file = piece.file,
                       .block = block,
                       .piece = i,
                       .in_block = piece.offset + at - file.block_begin(block),
                       .in_piece = at,
                       .bytes = bytes});
      at += bytes;
    }
  }
  std::ranges::sort(parts, {},
                    [](const Part& p) { return std::tuple(p.file, p.block, p.in_block, p.piece); });
  return parts;
}

/// Neighbouring blocks of a file, with the parts in them.
struct Run {
  std::span<const Part> parts;
  std::size_t file() const { return parts.front().file; }
  std::size_t first_block() const { return parts.front().block; }
  std::size_t last_block() const { return parts.back().block; }
};

std::vector<Run> runs_of(std::span<const Part> parts) {
  std::vector<Run> runs;
  for (std::size_t begin = 0; begin < parts.size();) {
    std::size_t end = begin + 1;
    while (end < parts.size() && parts[end].file == parts[begin].file &&
           parts[end].block <= parts[end - 1].block + 1 &&
           parts[end].block < parts[begin].block + kRunBlocks)
      ++end;
    runs.push_back({parts.subspan(begin, end - begin)});
    begin = end;
  }
  return runs;
}

/// What the threads share.
class Reading {
 public:
  Reading(const std::filesystem::path& checkpoint, const Manifest& manifest,
          std::span<const PieceRead> pieces, const std::vector<Run>& runs)
      : checkpoint_(checkpoint),
        manifest_(manifest),
        pieces_(pieces),
        runs_(runs),
        open_(manifest.files.size()) {}

  /// What each thread does until no run is left. `ahead`: how many are under way at once.
  void work(std::size_t ahead) {
    std::vector<std::byte> buffer(kBlockBytes);
    std::shared_ptr<FileReader> file;
    std::size_t open = manifest_.files.size();
    for (std::size_t i = next_++; i < runs_.size(); i = next_++) {
      try {
        const Run& run = runs_[i];
        if (open != run.file()) file = opened(open = run.file());
        if (i + ahead < runs_.size() && runs_[i + ahead].file() == open)
          announce(*file, runs_[i + ahead]);
        read(*file, run, buffer);
      } catch (...) {
        failed(i);
      }
    }
  }

  std::uint64_t finish() const {
    if (failure_) std::rethrow_exception(failure_);
    return read_bytes_;
  }

 private:
  /// Threads in the same file share it; nobody's file is closed.
  std::shared_ptr<FileReader> opened(std::size_t file) {
    const std::lock_guard lock(mutex_);
    auto reader = open_[file].lock();
    if (!reader) {
      reader = std::make_shared<FileReader>(open_file(checkpoint_, manifest_.files[file]));
      open_[file] = reader;
    }
    return reader;
  }

  void announce(const FileReader& file, const Run& run) const {
    const FileRecord& record = manifest_.files[run.file()];
    const std::uint64_t begin = record.block_begin(run.first_block());
    file.will_read(begin, record.block_end(run.last_block()) - begin);
  }

  void read(const FileReader& file, const Run& run, std::span<std::byte> buffer) {
    std::vector<std::span<std::byte>> places;
    const FileRecord& record = manifest_.files[run.file()];
    for (std::size_t begin = 0; begin < run.parts.size();) {
      const std::size_t block = run.parts[begin].block;
      std::size_t end = begin;
      while (end < run.parts.size() && run.parts[end].block == block) ++end;
      const std::uint64_t bytes = record.block_end(block) - record.block_begin(block);
      read_block_into(file, run.parts.subspan(begin, end - begin), buffer.first(bytes), places);
      begin = end;
    }
  }

  /// Reads one block: what pieces have memory for right there, the rest into the buffer.
  void read_block_into(const FileReader& file, std::span<const Part> parts,
                       std::span<std::byte> buffer, std::vector<std::span<std::byte>>& places) {
    const bool in_place = split(parts, buffer, places);
    const Part& largest = *std::ranges::max_element(parts, {}, &Part::bytes);
    read_block(file, manifest_, largest.file, largest.block, places, pieces_[largest.piece].tensor);
    read_bytes_ += buffer.size();
    for (const Part& part : parts) {
      const PieceRead& piece = pieces_[part.piece];
      const std::span<const std::byte> bytes = buffer.subspan(part.in_block, part.bytes);
      if (piece.into == nullptr)
        piece.sink(part.in_piece, bytes);
      else if (!in_place)
        std::memcpy(piece.into + part.in_piece, bytes.data(), bytes.size());
    }
  }

  /// Where the bytes of a block go, in order: pieces' own memory, and the buffer between them.
  /// False, and the buffer alone, where pieces share bytes (a strange manifest's).
  bool split(std::span<const Part> parts, std::span<std::byte> buffer,
             std::vector<std::span<std::byte>>& places) const {
    places.clear();
    std::uint64_t at = 0;
    for (const Part& part : parts) {
      const PieceRead& piece = pieces_[part.piece];
      if (part.in_block < at) {
        places.assign(1, buffer);
        return false;
      }
      if (part.in_block > at) places.push_back(buffer.subspan(at, part.in_block - at));
      places.push_back(piece.into == nullptr ? buffer.subspan(part.in_block, part.bytes)
                                             : std::span(piece.into + part.in_piece, part.bytes));
      at = part.in_block + part.bytes;
    }
    if (at < buffer.size()) places.push_back(buffer.subspan(at));
    return true;
  }

  /// Inside a catch block. The others take no further run.
  void failed(std::size_t run) {
    next_ = runs_.size();
    bool is_damage = false;
    try {
      throw;
    } catch (const DamageError&) {
      is_damage = true;
    } catch (...) {
    }
    const std::lock_guard lock(mutex_);
    const bool counts = !failure_ || (is_damage == damaged_ ? run < failed_run_ : damaged_);
    if (!counts) return;
    failure_ = std::current_exception();
    failed_run_ = run;
    damaged_ = is_damage;
  }

  const std::filesystem::path& checkpoint_;
  const Manifest& manifest_;
  std::span<const PieceRead> pieces_;
  const std::vector<Run>& runs_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::uint64_t> read_bytes_ = 0;
  std::mutex mutex_;
  std::vector<std::weak_ptr<FileReader>> open_;
  std::exception_ptr failure_;
  std::size_t failed_run_ = 0;
  bool damaged_ = false;  ///< failure_ is
};

}  // namespace

ReadCounts read_pieces(const std::filesystem::path& checkpoint, const Manifest& manifest,
                       std::span<const PieceRead> pieces, int threads) {
  ReadCounts counts;
  for (const PieceRead& piece : pieces) {
    counts.wanted_bytes += piece.bytes;
    counts.pieces += piece.bytes > 0 ? 1 : 0;
  }
  const std::vector<Part> parts = parts_of(manifest, pieces);
  const std::vector<Run> runs = runs_of(parts);
  const std::size_t workers = std::clamp<std::size_t>(static_cast<std::size_t>(threads), 1,
                                                      std::max<std::size_t>(runs.size(), 1));
  Reading reading(checkpoint, manifest, pieces, runs);
  std::vector<std::thread> others;
  try {
    for (std::size_t i = 1; i < workers; ++i)
      others.push_back(deaf_thread([&] { reading.work(workers); }));
  } catch (const std::system_error&) {  // no more threads: with those that there are
  }
  reading.work(workers);
  for (std::thread& other : others) other.join();
  counts.read_bytes = reading.finish();
  return counts;
}

}  // namespace trestle::checkpoint
