// Memory that a copy of the state waits in until it is written: a ring of blocks, kept and used
// again by the next save.
//
//   Staging staging({.limit_bytes = 0});       // as large as a shard
//   staging.reserve(plan.file_bytes());
//   staging.block(i)                           // of the file's block i, or of block i - blocks()
//
// LOCAL. THREADS: one. ERRORS: ExitCode::checkpoint where there is no memory.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace trestle::checkpoint {

/// What a save of so many bytes stages at most: whole blocks. `limit_bytes` 0: all of them.
std::uint64_t staging_bytes(std::uint64_t limit_bytes, std::uint64_t file_bytes);

class Staging {
 public:
  explicit Staging(std::uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  ~Staging() { release(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Room for a file of this size, or for as much of it as the limit allows. `pinned`: a GPU copies
  /// into it.
  void reserve(std::uint64_t file_bytes, bool pinned = false);
  /// Makes the kernel give all of it now: the first copy would otherwise take it page by page,
  /// which can be thirty times slower than copying.
  void populate();

  std::size_t blocks() const;
  std::span<std::byte> block(std::uint64_t index);

 private:
  void release();

  std::uint64_t limit_bytes_;
  std::span<std::byte> memory_;
  at::Tensor pinned_;  ///< whose memory it is, where it is pinned
};

}  // namespace trestle::checkpoint
