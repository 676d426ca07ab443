#include "dist/activity.h"

#include "base/error.h"

#include <array>
#include <cstring>

namespace trestle::dist {
namespace {

constexpr std::array<std::string_view, 6> kPhaseNames{"idle",       "start-up", "step",
                                                      "checkpoint", "pictures", "evaluate"};

Phase phase_of(std::int64_t number) {
  TRESTLE_REQUIRE_AS(peer, number >= 0 && number < std::int64_t(kPhaseNames.size()),
                     "a peer's table names phase {} (the ranks run different programs?). Start the "
                     "same program on every rank.",
                     number);
  return static_cast<Phase>(number);
}

}  // namespace

std::string_view phase_name(Phase phase) { return kPhaseNames[static_cast<std::size_t>(phase)]; }

void Packer::number(std::int64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void Packer::real(double value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void Packer::text(std::string_view value) {
  number(static_cast<std::int64_t>(value.size()));
  bytes_ += value;
}

std::string_view Unpacker::take(std::size_t count) {
  TRESTLE_REQUIRE_AS(peer, count <= rest_.size(),
                     "a peer's message ends early (the ranks run different programs?). Start the "
                     "same program on every rank.");
  const std::string_view taken = rest_.substr(0, count);
  rest_.remove_prefix(count);
  return taken;
}

std::int64_t Unpacker::number() {
  std::int64_t value = 0;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

double Unpacker::real() {
  double value = 0;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

std::string Unpacker::text() {
  const auto size = static_cast<std::size_t>(number());  // a negative one is far too large
  return std::string(take(size));
}

std::string encode(const RankActivity& activity) {
  Packer packer;
  packer.number(static_cast<std::int64_t>(activity.phase));
  packer.number(activity.step);
  packer.real(activity.quiet_s);
  packer.number(static_cast<std::int64_t>(activity.operations.size()));
  for (const OperationState& operation : activity.operations) {
    packer.number(operation.channel);
    packer.text(operation.channel_name);
    packer.number(static_cast<std::int64_t>(operation.members.size()));
    for (const int member : operation.members) packer.number(member);
    packer.number(operation.sequence);
    packer.number(operation.peer);
    packer.text(operation.kind);
    packer.text(operation.name);
    packer.number(operation.bytes);
    packer.number(static_cast<std::int64_t>(operation.phase));
    packer.number(operation.step);
    packer.number(operation.finished ? 1 : 0);
    packer.real(operation.age_s);
    packer.real(operation.finished_ago_s);
  }
  return packer.take();
}

RankActivity decode_activity(std::string_view bytes) {
  Unpacker unpacker(bytes);
  RankActivity activity;
  activity.phase = phase_of(unpacker.number());
  activity.step = unpacker.number();
  activity.quiet_s = unpacker.real();
  for (std::int64_t left = unpacker.number(); left > 0; --left) {
    OperationState operation;
    operation.channel = unpacker.number();
    operation.channel_name = unpacker.text();
    for (std::int64_t members = unpacker.number(); members > 0; --members)
      operation.members.push_back(static_cast<int>(unpacker.number()));
    operation.sequence = unpacker.number();
    operation.peer = static_cast<int>(unpacker.number());
    operation.kind = unpacker.text();
    operation.name = unpacker.text();
    operation.bytes = unpacker.number();
    operation.phase = phase_of(unpacker.number());
    operation.step = unpacker.number();
    operation.finished = unpacker.number() != 0;
    operation.age_s = unpacker.real();
    operation.finished_ago_s = unpacker.real();
    activity.operations.push_back(std::move(operation));
  }
  return activity;
}

}  // namespace trestle::dist
