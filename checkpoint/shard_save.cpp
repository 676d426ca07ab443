#include "checkpoint/shard_save.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "checkpoint/block_writer.h"
#include "checkpoint/save_step.h"
#include "checkpoint/shard_part.h"
#include "checkpoint/tensor_bytes.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Of the tensors that are not in host memory; nothing: all are.
std::optional<c10::Device> gpu_of(const StateTree& tree) {
  const auto on_gpu = std::ranges::find_if(
      tree.tensors, [](const StateEntry& entry) { return !entry.tensor.is_cpu(); });
  if (on_gpu == tree.tensors.end()) return std::nullopt;
  return on_gpu->tensor.device();
}

}  // namespace

void ShardTools::prepare(const StateTree& tree, const ShardOwner& owner) {
  staging.reserve(planner.plan(tree, owner).file_bytes(), /*pinned=*/gpu_of(tree).has_value());
  staging.populate();
}

ShardSave::ShardSave(StateTree tree, ShardRequest request, std::shared_ptr<ShardTools> tools)
    : tree_(std::move(tree)), request_(std::move(request)), tools_(std::move(tools)) {
  const auto gpu = gpu_of(tree_);
  if (!gpu) return;
  const c10::Device device = *gpu;
  ready_.emplace(device.type());
  ready_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

void ShardSave::run() noexcept {
  try {
    const auto started = Clock::now();
    plan();
    FileRecord file = copy_and_write();
    Manifest manifest = plan_.manifest;
    manifest.files.push_back(std::move(file));
    took_s_ = seconds_since(started);
    write_part(request_.folder, request_.owner.rank,
               {.manifest = std::move(manifest), .took_s = took_s_});
    reach(SaveStep::part_written);
    ending_.done();
  } catch (const fs::filesystem_error& error) {
    ending_.failed(std::make_exception_ptr(
        Error(ExitCode::checkpoint,
              fmt::format("{} could not be written ({}). Check its folder's rights and space.",
                          request_.folder.string(), error.what()))));
  } catch (...) {
    ending_.failed(std::current_exception());
  }
  const std::lock_guard lock(reading_);
  tree_.tensors.clear();
  flat_.reset();
}

void ShardSave::plan() {
  const std::lock_guard lock(reading_);
  require_wanted();
  plan_ = tools_->planner.plan(tree_, request_.owner);
  tools_->staging.reserve(plan_.file_bytes(), /*pinned=*/ready_.has_value());
  if (ready_) ready_->synchronize();
  planned_ = true;
}

FileRecord ShardSave::copy_and_write() {
  Staging& staging = tools_->staging;
  const std::uint64_t bytes = plan_.file_bytes();
  const std::uint64_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  const auto bytes_of_block = [&](std::uint64_t block) {
    return std::min(kBlockBytes, bytes - block * kBlockBytes);
  };
  std::uint64_t copied = 0, written = 0;
  std::optional<BlockWriter> file;
  while (written < blocks) {
    require_wanted();
    if (copied < blocks && copied - written < staging.blocks()) {
      copy_block(copied, staging.block(copied).first(bytes_of_block(copied)));
      ++copied;
      if (copied == (blocks + 1) / 2) reach(SaveStep::half_staged);
      if (copied == blocks) reach(SaveStep::staged);
      continue;
    }
    if (!file) {  // not before there is nothing to copy: a file system may take its time
      fs::create_directories(request_.folder);
      file.emplace(request_.folder / shard_name(request_.owner));
    }
    file->append(staging.block(written).first(bytes_of_block(written)));
    ++written;
    if (written == (blocks + 1) / 2) reach(SaveStep::half_written);
  }
  reach(SaveStep::shard_written);
  require_wanted();
  FileRecord record = file->finish();
  reach(SaveStep::shard_synced);
  return record;
}

void ShardSave::require_wanted() const {
  if (!ending_.is_open()) std::rethrow_exception(ending_.why());
}

void ShardSave::copy_block(std::uint64_t block, std::span<std::byte> into) {
  const auto started = Clock::now();
  {
    const std::lock_guard lock(reading_);
    require_wanted();
    const std::uint64_t begin = block * kBlockBytes, end = begin + into.size();
    for (;; ++next_segment_) {
      const Segment& segment = plan_.segments[next_segment_];
      const std::uint64_t first = std::max(begin, segment.offset);
      const std::uint64_t last = std::min(end, segment.offset + segment.bytes);
      copy(segment, first - segment.offset, into.subspan(first - begin, last - first));
      if (segment.offset + segment.bytes > end) break;  // goes on in the next block
      if (segment.offset + segment.bytes == end) {
        ++next_segment_;
        break;
      }
    }
    copied_bytes_ = end;
  }
  ending_.look_again();
  copying_s_ = copying_s_ + seconds_since(started);
}

void ShardSave::copy(const Segment& segment, std::uint64_t from, std::span<std::byte> into) {
  if (segment.source == Segment::Source::hdf5) {
    std::memcpy(into.data(), plan_.layout.parts[segment.index].bytes.data() + from, into.size());
    return;
  }
  if (flat_of_ != segment.index) {
    // Blocks do not end where elements do, so all is bytes. A tensor with strides of its own is put
    // in order first.
    const at::Tensor& tensor = tree_.tensors[segment.index].tensor;
    flat_ = tensor.detach().contiguous().reshape({-1}).view(at::kByte);
    flat_of_ = segment.index;
  }
  const std::uint64_t begin = segment.at_byte + from;
  if (flat_.is_cpu()) {
    std::memcpy(into.data(), bytes_of(flat_).data() + begin, into.size());
    return;
  }
  const auto size = static_cast<std::int64_t>(into.size());
  at::from_blob(into.data(), {size}, at::kByte)
      .copy_(flat_.narrow(0, static_cast<std::int64_t>(begin), size));
}

void ShardSave::reach(SaveStep step) const { at_step(step, request_.step); }

void ShardSave::discard() noexcept {
  const fs::path& folder = request_.folder;
  ::unlink((folder / shard_name(request_.owner)).c_str());
  ::unlink((folder / part_name(request_.owner.rank)).c_str());
  ::rmdir(folder.c_str());  // fails while another rank's files are there
  reach(SaveStep::discarded);
}

bool ShardSave::is_in_staging(std::optional<Stage> stage) const {
  return planned_ && copied_bytes_ >= (stage ? plan_.end_of(*stage) : plan_.file_bytes());
}

bool ShardSave::is_copied(std::optional<Stage> stage) const {
  return is_in_staging(stage) || !ending_.is_open();
}

bool ShardSave::wait_until_copied(std::optional<Stage> stage, Clock::time_point deadline) const {
  ending_.wait_until(deadline, [&] { return is_in_staging(stage); });
  return is_copied(stage);
}

void ShardSave::cancel(std::exception_ptr why) {
  ending_.failed(std::move(why));
  const std::lock_guard lock(reading_);  // until what is being read is read
}

}  // namespace trestle::checkpoint
