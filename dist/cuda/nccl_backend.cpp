#include "dist/cuda/nccl_backend.h"

#include "dist/binding.h"
#include "dist/cuda/nccl_steps.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <thread>

namespace trestle::dist {
namespace {

using namespace std::chrono_literals;

std::string described(const Call& call) {
  return call.name.empty() ? std::string(call.kind)
                           : fmt::format("{} \"{}\"", call.kind, call.name);
}

ncclUniqueId shared_id(const Communicator& ranks) {
  ncclUniqueId id{};
  ranks.agreed([&] {
    if (ranks.is_root()) TRESTLE_NCCL(ncclGetUniqueId(&id));
  });
  const std::string bytes = ranks.broadcast_bytes({id.internal, sizeof id.internal}, 0);
  std::ranges::copy(bytes, id.internal);
  ranks.barrier();  // the time-out of the set-up begins for all at once
  return id;
}

std::shared_ptr<NcclLane> joined_lane(const Communicator& ranks, int device, const std::string& who,
                                      const NcclOptions& options) {
  if (options.sharing == GpuSharing::for_tests) {
    const std::vector<std::string> hosts = ranks.all_gather_bytes(host_name());
    const bool one_host = std::ranges::count(hosts, hosts[0]) == ranks.size();
    share_gpu(ranks.channel().members()[ranks.rank()], one_host);
  }
  const ncclUniqueId id = shared_id(ranks);
  // Inside, the ranks talk to each other, but not for longer than the time-out: all come back.
  return ranks.agreed([&] {
    auto lane = std::make_shared<NcclLane>(device, who);
    lane->join({.id = id, .rank = ranks.rank(), .size = ranks.size()},
               NcclLane::Patience(options.set_up_timeout_s));
    while (!lane->is_ready()) std::this_thread::sleep_for(1ms);
    return lane;
  });
}

}  // namespace

NcclBackend::NcclBackend(const Communicator& communicator, int device, const NcclOptions& options,
                         std::string_view name)
    : calls_(communicator.channel().split(0, communicator.rank(), name)),
      device_(device),
      who_(fmt::format("rank {} on {}", calls_->members()[calls_->rank()], host_name())),
      together_{joined_lane(communicator, device, who_, options)} {}

NcclBackend::~NcclBackend() {
  if (std::uncaught_exceptions() > 0) {
    progress_.stop();
    const auto why = std::make_exception_ptr(
        Error(ExitCode::peer,
              "NCCL was left while an error ended the run. Look for the first "
              "error that any rank reported."));
    for (const Lane* lane : lanes()) lane->lane->break_with(why);
    return;
  }
  for (const Lane* lane : lanes()) {
    try {
      if (lane->last) lane->last->wait();
    } catch (const std::exception&) {  // its Work has said it, or nobody wanted to know
    }
  }
  progress_.stop();
  for (const Lane* lane : lanes()) lane->lane->start_closing();
  for (const Lane* lane : lanes()) lane->lane->finish_closing();
}

std::vector<NcclBackend::Lane*> NcclBackend::lanes() {
  std::vector<Lane*> lanes = {&together_};
  for (auto& entry : messages_) {
    if (entry.second.lane) lanes.push_back(&entry.second);
  }
  return lanes;
}

std::shared_ptr<NcclOperation> NcclBackend::collective(const Call& call, std::size_t bytes,
                                                       std::vector<NcclStep> steps,
                                                       cudaStream_t issued_on) {
  const OperationInfo info{.channel = calls_->number(),
                           .channel_name = calls_->name(),
                           .members = calls_->members(),
                           .sequence = calls_->count_call(),
                           .kind = call.kind,
                           .name = call.name,
                           .bytes = static_cast<std::int64_t>(bytes)};
  return issue(together_, info, call, std::move(steps), issued_on);
}

std::shared_ptr<NcclOperation> NcclBackend::send(const Call& call, std::span<const std::byte> bytes,
                                                 int to, cudaStream_t issued_on) {
  Lane& lane = messages_with(to, true);
  return issue(lane, message_info(call, bytes.size(), to, true), call, send_steps(bytes),
               issued_on);
}

std::shared_ptr<NcclOperation> NcclBackend::receive(const Call& call, std::span<std::byte> bytes,
                                                    int from, cudaStream_t issued_on) {
  Lane& lane = messages_with(from, false);
  return issue(lane, message_info(call, bytes.size(), from, false), call, recv_steps(bytes),
               issued_on);
}

OperationInfo NcclBackend::message_info(const Call& call, std::size_t bytes, int peer,
                                        bool is_outgoing) {
  return {.channel = calls_->number(),
          .channel_name = calls_->name(),
          .members = calls_->members(),
          .sequence = calls_->count_message(peer, is_outgoing),
          .kind = call.kind,
          .name = call.name,
          .bytes = static_cast<std::int64_t>(bytes),
          .peer = calls_->members()[peer]};
}

std::shared_ptr<NcclOperation> NcclBackend::issue(Lane& lane, const OperationInfo& info,
                                                  const Call& call, std::vector<NcclStep> steps,
                                                  cudaStream_t issued_on) {
  lane.lane->check();
  TRESTLE_CUDA(cudaSetDevice(device_));
  auto operation = std::make_shared<NcclOperation>(
      lane.lane, NcclReport{calls_, calls_->transport().observed().queued(info)}, described(call),
      call.keep, std::move(steps), issued_on);
  lane.last = operation;
  progress_.submit(operation);
  return operation;
}

NcclBackend::Lane& NcclBackend::messages_with(int peer, bool is_outgoing) {
  Lane& found = messages_[{peer, is_outgoing}];
  if (found.lane) return found;
  const auto lane = std::make_shared<NcclLane>(device_, who_);
  const auto id = std::make_shared<ncclUniqueId>();
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(id.get(), 1));
  const Call call{.kind = is_outgoing ? "send" : "recv", .name = "NCCL id", .keep = id};
  if (is_outgoing) TRESTLE_NCCL(ncclGetUniqueId(id.get()));
  const Pending carried = is_outgoing ? dist::send(*calls_, call, bytes, peer)
                                      : dist::receive(*calls_, call, bytes, peer);
  lane->join_when(
      [=]() -> std::optional<NcclLane::Membership> {
        if (!carried->test()) return std::nullopt;
        return NcclLane::Membership{.id = *id, .rank = is_outgoing ? 0 : 1, .size = 2};
      },
      std::nullopt);
  found.lane = lane;
  return found;
}

}  // namespace trestle::dist
