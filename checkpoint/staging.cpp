#include "checkpoint/staging.h"

#include "base/allocator.h"
#include "base/error.h"
#include "checkpoint/manifest.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sys/mman.h>
#include <unistd.h>

namespace trestle::checkpoint {
namespace {

std::uint64_t whole_blocks(std::uint64_t bytes) {
  return std::max<std::uint64_t>(1, (bytes + kBlockBytes - 1) / kBlockBytes) * kBlockBytes;
}

[[noreturn]] void fail_for_memory(std::uint64_t bytes) {
  fail(ExitCode::checkpoint,
       "There are no {} bytes of memory to copy the state to. Set checkpoint.staging_bytes to what "
       "can be spared (at least {}).",
       bytes, kBlockBytes);
}

}  // namespace

std::uint64_t staging_bytes(std::uint64_t limit_bytes, std::uint64_t file_bytes) {
  const std::uint64_t whole = whole_blocks(file_bytes);
  return limit_bytes == 0 ? whole : std::min(whole, whole_blocks(limit_bytes));
}

void Staging::reserve(std::uint64_t file_bytes, bool pinned) {
  const std::uint64_t bytes = staging_bytes(limit_bytes_, file_bytes);
  if (bytes <= memory_.size() && pinned == pinned_.defined()) return;
  release();
  if (pinned) {
    try {
      pinned_ = at::empty({static_cast<std::int64_t>(bytes)},
                          at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    } catch (const c10::Error&) {
      fail_for_memory(bytes);
    }
    memory_ = {static_cast<std::byte*>(pinned_.data_ptr()), bytes};
    return;
  }
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail_for_memory(bytes);
  memory_ = {static_cast<std::byte*>(memory), bytes};
}

void Staging::populate() {
  if (pinned_.defined() || memory_.empty()) return;  // pinned memory is there at once
  if (trestle::populate(memory_)) return;
  // Nothing is staged yet, so every page may be written to (an older kernel).
  const auto page_bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  for (std::size_t at = 0; at < memory_.size(); at += page_bytes) memory_[at] = std::byte{};
}

void Staging::release() {
  if (!pinned_.defined() && !memory_.empty()) ::munmap(memory_.data(), memory_.size());
  pinned_.reset();
  memory_ = {};
}

std::size_t Staging::blocks() const { return memory_.size() / kBlockBytes; }

std::span<std::byte> Staging::block(std::uint64_t index) {
  return memory_.subspan(index % blocks() * kBlockBytes, kBlockBytes);
}

}  // namespace trestle::checkpoint
