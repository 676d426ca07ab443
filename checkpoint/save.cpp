#include "checkpoint/save.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <thread>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryPrefix = ".tmp-step-";

/// The sums of the ranks' flags, unless some do not come in time.
SaveFlags summed(const SaveFlags& mine, const AsyncSaver& saver, dist::Collectives& collectives) {
  at::Tensor flags = at::tensor({mine.written, mine.failed, mine.sealed}, at::kLong);
  dist::Work sum = collectives.all_reduce(flags, dist::ReduceOp::sum, "save");
  for (auto pause = std::chrono::milliseconds(1); !sum.test();
       pause = std::min(2 * pause, std::chrono::milliseconds(50))) {
    if (AsyncSaver::Clock::now() > saver.others_deadline()) {
      fail(ExitCode::peer,
           "step {} is not saved: a rank says nothing, though the time for it is over "
           "(checkpoint.timeout_s). Look at the ranks' logs.",
           saver.step());
    }
    std::this_thread::sleep_for(pause);
  }
  const auto* sums = flags.const_data_ptr<std::int64_t>();
  return {.written = sums[0], .failed = sums[1], .sealed = sums[2]};
}

}  // namespace

std::uint32_t agreed_tag(const dist::Communicator& comm) {
  std::string bytes(sizeof(std::uint32_t), '\0');
  if (comm.is_root()) {
    const std::uint32_t tag = std::random_device()();
    std::memcpy(bytes.data(), &tag, sizeof tag);
  }
  bytes = comm.broadcast_bytes(bytes, 0);
  std::uint32_t tag = 0;
  std::memcpy(&tag, bytes.data(), sizeof tag);
  return tag;
}

void settle(AsyncSaver& saver, dist::Collectives& collectives) {
  while (saver.under_way()) {
    const auto started = AsyncSaver::Clock::now();
    saver.wait_for_news();
    const SaveFlags of_all = summed(saver.flags(), saver, collectives);
    saver.count_wait(started);
    saver.learn(of_all);
  }
}

fs::path save(const dist::Communicator& comm, const StateTree& tree, const SaveRequest& request) {
  const auto collectives = dist::make_collectives(comm, "saving");
  AsyncSaver saver({.rank = comm.rank(), .world = comm.size(), .tag = agreed_tag(comm)});
  saver.begin(tree, request);
  settle(saver, *collectives);
  const SaveResult result = *saver.take_result();
  saver.wait_until_idle(AsyncSaverOptions{}.grace_s);
  if (!result.sealed) comm.agree(result.why_not);
  return result.checkpoint;
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().starts_with(kTemporaryPrefix))
      fs::remove_all(entry.path(), ignored);
}

}  // namespace trestle::checkpoint
