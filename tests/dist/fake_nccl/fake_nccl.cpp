// Communicators and their calls.
#include "dist/cuda/combine_rows.h"
#include "dist/gpu_assignment.h"
#include "dist/reduce.h"
#include "tests/dist/fake_nccl/streams.h"

#include <nccl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace trestle::dist::fake {
namespace {

std::atomic<int> misuse_count = 0, live_count = 0, all_gather_failure = 0;
std::atomic<bool> set_up_waits = false;

struct Buffers {
  const void* in;
  void* out;
};

/// Where the ranks of a communicator meet.
struct Group {
  std::mutex mutex;
  int size = 0, joined = 0;
  bool is_aborted = false;

  struct Meeting {
    std::map<int, Buffers> arrived;
    bool is_done = false;
  };
  std::map<std::uint64_t, Meeting> meetings;
  struct Letter {
    const void* data;
    size_t bytes;
    std::shared_ptr<std::atomic<bool>> is_taken;
  };
  std::map<std::pair<int, int>, std::deque<Letter>> letters;
};

std::mutex groups_mutex;
std::map<std::string, std::shared_ptr<Group>> groups;

std::shared_ptr<Group> group_of(const ncclUniqueId& id, int size) {
  const std::lock_guard lock(groups_mutex);
  auto& group = groups[std::string(id.internal, sizeof id.internal)];
  if (!group) {
    group = std::make_shared<Group>();
    group->size = size;
  }
  return group;
}

struct Launch {
  cudaStream_t stream;
  Task task;
};

thread_local int group_depth = 0;
thread_local std::vector<std::pair<ncclComm_t, Launch>> group_calls;

}  // namespace

int misuses() { return misuse_count.exchange(0); }
int live_communicators() { return live_count; }
void keep_set_up_waiting(bool is_waiting) { set_up_waits = is_waiting; }
void fail_next_all_gather(int code) { all_gather_failure = code; }

}  // namespace trestle::dist::fake

using namespace trestle::dist::fake;

/// Opaque in nccl.h.
struct ncclComm {
  std::shared_ptr<Group> group;
  int rank = 0;
  std::mt19937 dice;
  bool is_joining = true;
  int asks_left = 3;  ///< that are answered with ncclInProgress
  std::vector<Launch> launches = {};
  std::uint64_t calls = 0;
  bool is_finalized = false;
  std::shared_ptr<std::atomic<bool>> is_aborted = std::make_shared<std::atomic<bool>>(false);
};

namespace {

template <class T>
void reduce_backwards(const std::map<int, Buffers>& arrived, size_t count, ncclRedOp_t op,
                      std::vector<T>& result) {
  result.assign(count, T{});
  for (size_t i = 0; i < count; ++i) {
    auto each = arrived.rbegin();
    T value = static_cast<const T*>(each->second.in)[i];
    for (++each; each != arrived.rend(); ++each) {
      const T other = static_cast<const T*>(each->second.in)[i];
      if (op == ncclSum) {
        value += other;
      } else if constexpr (std::is_floating_point_v<T>) {
        value = op == ncclMax ? std::fmax(value, other) : std::fmin(value, other);
      } else {
        value = op == ncclMax ? std::max(value, other) : std::min(value, other);
      }
    }
    result[i] = value;
  }
}

/// `hand_out(rank, sums, out)` for each rank.
void reduce(const std::map<int, Buffers>& arrived, size_t count, ncclDataType_t type,
            ncclRedOp_t op, const std::function<void(int, const std::byte*, void*)>& hand_out) {
  const auto with = [&](auto zero) {
    std::vector<decltype(zero)> sums;
    reduce_backwards(arrived, count, op, sums);
    for (const auto& [rank, buffers] : arrived) {
      hand_out(rank, reinterpret_cast<const std::byte*>(sums.data()), buffers.out);
    }
  };
  if (type == ncclFloat32) with(float{});
  if (type == ncclFloat64) with(double{});
  if (type == ncclInt64) with(std::int64_t{});
}

size_t bytes_of(ncclDataType_t type) {
  return type == ncclInt8 ? 1 : type == ncclBfloat16 ? 2 : type == ncclFloat32 ? 4 : 8;
}

bool is_in_progress(ncclComm_t comm) {
  return comm->is_joining || comm->asks_left > 0 || !comm->launches.empty();
}

/// As the library does: what is called outside a group, or ends one, goes on by itself.
ncclResult_t start(ncclComm_t comm, Launch launch) {
  if (is_in_progress(comm) || comm->is_finalized) {
    ++misuse_count;
    return ncclInvalidArgument;
  }
  if (group_depth > 0) {
    group_calls.emplace_back(comm, std::move(launch));
    return ncclSuccess;
  }
  comm->launches.push_back(std::move(launch));
  comm->asks_left = static_cast<int>(comm->dice() % 4);
  return ncclInProgress;
}

using Work = std::function<void(const std::map<int, Buffers>&)>;

/// All ranks of the group meet; the last one does the work.
ncclResult_t meet(ncclComm_t comm, Buffers mine, cudaStream_t stream, Work work) {
  auto task = [group = comm->group, rank = comm->rank, call = comm->calls++, mine,
               aborted = comm->is_aborted, work = std::move(work)] {
    if (*aborted) return true;
    const std::lock_guard lock(group->mutex);
    Group::Meeting& meeting = group->meetings[call];
    meeting.arrived[rank] = mine;
    if (!meeting.is_done && static_cast<int>(meeting.arrived.size()) == group->size) {
      work(meeting.arrived);
      meeting.is_done = true;
    }
    return meeting.is_done;
  };
  return start(comm, {stream, std::move(task)});
}

}  // namespace

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<std::uint64_t> last = 0;
  std::memset(id, 0, sizeof *id);
  const std::uint64_t number = ++last;
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidArgument;
  const auto group = group_of(id, size);
  *comm = new ncclComm{.group = group, .rank = rank, .dice = std::mt19937(rank)};
  ++live_count;
  const std::lock_guard lock(group->mutex);
  ++group->joined;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = ncclSuccess;
  {
    const std::lock_guard lock(comm->group->mutex);
    if (comm->group->is_aborted) *error = ncclRemoteError;
    if (comm->is_joining && (comm->group->joined < comm->group->size || set_up_waits)) {
      *error = ncclInProgress;
    }
  }
  if (*error != ncclSuccess) return ncclSuccess;
  comm->is_joining = false;
  if (comm->asks_left > 0) {
    --comm->asks_left;
    *error = ncclInProgress;
    return ncclSuccess;
  }
  for (Launch& launch : comm->launches) push(launch.stream, std::move(launch.task));
  comm->launches.clear();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (is_in_progress(comm) || comm->is_finalized) ++misuse_count;
  comm->is_finalized = true;
  comm->asks_left = 2;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (is_in_progress(comm) || !comm->is_finalized) ++misuse_count;
  --live_count;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  *comm->is_aborted = true;
  {
    const std::lock_guard lock(comm->group->mutex);
    comm->group->is_aborted = true;
  }
  --live_count;
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t code) {
  return code == ncclRemoteError  ? "remote error"
         : code == ncclInProgress ? "in progress"
                                  : "other";
}

const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--group_depth > 0 || group_calls.empty()) return ncclSuccess;
  const auto calls = std::move(group_calls);
  group_calls.clear();
  // They go on side by side, and are one task to their stream.
  std::vector<std::pair<Task, bool>> parts;
  for (const auto& [comm, launch] : calls) parts.emplace_back(launch.task, false);
  return start(calls[0].first, {calls[0].second.stream, [parts]() mutable {
                                  for (auto& [task, is_done] : parts) {
                                    if (!is_done) is_done = task();
                                  }
                                  return std::ranges::all_of(
                                      parts, [](const auto& part) { return part.second; });
                                }});
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return meet(comm, {in, out}, stream, [=](const auto& arrived) {
    reduce(arrived, count, type, op, [&](int, const std::byte* sums, void* to) {
      std::memcpy(to, sums, count * bytes_of(type));
    });
  });
}

ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const size_t size = comm->group->size, bytes = count * bytes_of(type);
  return meet(comm, {in, out}, stream, [=](const auto& arrived) {
    reduce(arrived, count * size, type, op, [&](int rank, const std::byte* sums, void* to) {
      std::memcpy(to, sums + rank * bytes, bytes);
    });
  });
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (const int code = all_gather_failure.exchange(0)) return static_cast<ncclResult_t>(code);
  const size_t bytes = count * bytes_of(type);
  return meet(comm, {in, out}, stream, [=](const auto& arrived) {
    std::vector<std::byte> all(bytes * arrived.size());
    for (const auto& [rank, buffers] : arrived) {
      std::memcpy(all.data() + rank * bytes, buffers.in, bytes);
    }
    for (const auto& [rank, buffers] : arrived) std::memcpy(buffers.out, all.data(), all.size());
  });
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return meet(comm, {in, out}, stream, [=](const auto& arrived) {
    const void* const from = arrived.at(root).in;
    for (const auto& [rank, buffers] : arrived) {
      if (buffers.out != from) std::memcpy(buffers.out, from, count * bytes_of(type));
    }
  });
}

ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int to, ncclComm_t comm,
                      cudaStream_t stream) {
  const Group::Letter letter{in, count * bytes_of(type),
                             std::make_shared<std::atomic<bool>>(false)};
  auto task = [=, group = comm->group, rank = comm->rank, aborted = comm->is_aborted,
               is_posted = false]() mutable {
    if (*aborted) return true;
    const std::lock_guard lock(group->mutex);
    if (!std::exchange(is_posted, true)) group->letters[{rank, to}].push_back(letter);
    return letter.is_taken->load();
  };
  return start(comm, {stream, std::move(task)});
}

ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int from, ncclComm_t comm,
                      cudaStream_t stream) {
  auto task = [=, group = comm->group, rank = comm->rank, aborted = comm->is_aborted] {
    if (*aborted) return true;
    const std::lock_guard lock(group->mutex);
    auto& letters = group->letters[{from, rank}];
    if (letters.empty()) return false;
    if (letters.front().bytes != count * bytes_of(type)) ++misuse_count;
    std::memcpy(out, letters.front().data, letters.front().bytes);
    *letters.front().is_taken = true;
    letters.pop_front();
    return true;
  };
  return start(comm, {stream, std::move(task)});
}

namespace trestle::dist {

namespace {

template <class T, class In>
void combine_on(cudaStream_t stream, const Rows& rows, ReduceOp op, void* out) {
  fake::on(stream, [=] {
    std::vector<const In*> parts;
    for (int rank = 0; rank < rows.size; ++rank) {
      parts.push_back(rank == rows.rank
                          ? static_cast<const In*>(rows.own)
                          : static_cast<const In*>(rows.gathered) + rank * rows.count);
    }
    combine_in_order<T, In>(parts, rows.count, static_cast<T*>(out), op);
  });
}

}  // namespace

/// In place of the kernel.
void combine_rows(const Rows& rows, Arithmetic arithmetic, ReduceOp op, void* out,
                  cudaStream_t stream) {
  if (arithmetic == Arithmetic::float32) combine_on<float, float>(stream, rows, op, out);
  if (arithmetic == Arithmetic::float64) combine_on<double, double>(stream, rows, op, out);
  if (arithmetic == Arithmetic::bfloat16_to_float32) {
    combine_on<float, Bfloat16>(stream, rows, op, out);
  }
}

VisibleGpus visible_gpus() { return {.host = "fake", .uuids = {"GPU-fake"}}; }

}  // namespace trestle::dist
