#include "trainers/fault_injection.h"

#include "base/error.h"
#include "base/log.h"
#include "configs/nearest.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <limits>
#include <thread>
#include <unistd.h>

namespace trestle::trainers {
namespace {

using Kind = Fault::Kind;

const std::array<std::string, 5> kNames{"hang", "kill", "slow", "nan", "desync"};

[[noreturn]] void refuse(std::string_view spec, std::string_view reason) {
  fail(ExitCode::usage,
       "--inject {} is no fault ({}). Write hang, kill, nan or desync as in hang@rank1:step20, "
       "slow=2x@rank1, or kill@rank1:save-staged.",
       spec, reason);
}

/// Takes `prefix` and a whole number behind it off the front of `rest`.
template <class Number>
Number take(std::string_view& rest, std::string_view prefix, std::string_view spec) {
  Number value{};
  if (!rest.starts_with(prefix))
    refuse(spec, fmt::format("\"{}\" is missing before \"{}\"", prefix, rest));
  rest.remove_prefix(prefix.size());
  const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (problem != std::errc() || value < Number{})
    refuse(spec, fmt::format("no number after \"{}\"", prefix));
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
  return value;
}

/// The step of a save, "save-staged", and behind it perhaps "@step20".
void take_save_step(std::string_view& rest, Fault& fault, std::string_view spec) {
  constexpr std::string_view kPrefix = ":save-";
  rest.remove_prefix(kPrefix.size());
  const std::string name(rest.substr(0, rest.find('@')));
  fault.save_at = checkpoint::save_step_of(name);
  if (!fault.save_at) {
    std::vector<std::string> known;
    for (const auto& row : checkpoint::kSaveSteps) known.emplace_back(row.second);
    const std::string meant = configs::nearest(name, known);
    refuse(spec, meant.empty() ? fmt::format("no step of a save is called \"{}\"; they are {}",
                                             name, save_steps_text())
                               : fmt::format("\"{}\": did you mean \"{}\"?", name, meant));
  }
  rest.remove_prefix(name.size());
  if (!rest.empty()) fault.step = take<std::int64_t>(rest, "@step", spec);
}

/// Of this process, for the hook, which has no other place to find them.
std::vector<Fault>& kills_in_saves() {
  static std::vector<Fault> kills;
  return kills;
}

void kill_in_save(checkpoint::SaveStep at, std::int64_t step) {
  for (const Fault& fault : kills_in_saves())
    if (fault.save_at == at && step >= fault.step) ::kill(::getpid(), SIGKILL);
}

}  // namespace

std::string save_steps_text() {
  std::string text;
  for (const auto& row : checkpoint::kSaveSteps)
    text += fmt::format("{}save-{}", text.empty() ? "" : ", ", row.second);
  return text;
}

Fault parse_fault(std::string_view spec) {
  std::string_view rest = spec;
  const std::string name(rest.substr(0, rest.find_first_of("=@")));
  const auto known = std::ranges::find(kNames, name);
  if (known == kNames.end()) {
    const std::string meant = configs::nearest(name, kNames);
    refuse(spec, meant.empty() ? fmt::format("unknown fault \"{}\"", name)
                               : fmt::format("\"{}\": did you mean \"{}\"?", name, meant));
  }
  rest.remove_prefix(name.size());
  Fault fault{.kind = static_cast<Kind>(known - kNames.begin()), .rank = 0};
  if (fault.kind == Kind::slow) {
    fault.factor = take<double>(rest, "=", spec);
    if (fault.factor < 1) refuse(spec, "a factor below 1 would be faster");
    if (!rest.starts_with("x")) refuse(spec, "\"x\" is missing after the factor");
    rest.remove_prefix(1);
  }
  fault.rank = take<int>(rest, "@rank", spec);
  if (fault.kind == Kind::kill && rest.starts_with(":save-"))
    take_save_step(rest, fault, spec);
  else if (fault.kind != Kind::slow)
    fault.step = take<std::int64_t>(rest, ":step", spec);
  if (!rest.empty()) refuse(spec, fmt::format("\"{}\" is too much", rest));
  return fault;
}

FaultInjection::FaultInjection(const std::vector<Fault>& faults, const dist::Communicator& world,
                               const dist::Communicator& channel)
    : channel_(&channel) {
  for (const Fault& fault : faults) {
    TRESTLE_REQUIRE(fault.rank < world.size(),
                    "--inject {}@rank{} has no one to meet (the run has {} ranks, from 0 on). Name "
                    "a rank below {}.",
                    kNames[static_cast<std::size_t>(fault.kind)], fault.rank, world.size(),
                    world.size());
    if (fault.rank != world.rank()) continue;
    (fault.save_at ? kills_in_saves() : mine_).push_back(fault);
  }
  if (!kills_in_saves().empty()) checkpoint::on_save_step(kill_in_save);
}

bool FaultInjection::due(Kind kind, Step step) const {
  return std::ranges::any_of(
      mine_, [&](const Fault& f) { return f.kind == kind && f.step == step.value; });
}

void FaultInjection::at_step_begin(Step step, const std::vector<NamedParameter>& parameters) {
  if (spoiled_) {
    const auto& [tensor, hook] = *spoiled_;
    tensor.remove_hook(hook);
    spoiled_.reset();
  }
  if (due(Kind::nan, step) && !parameters.empty()) {
    const at::Tensor tensor = parameters.back().tensor;
    const auto spoil = [](const at::Tensor& gradient) {
      return at::full_like(gradient, std::numeric_limits<double>::quiet_NaN());
    };
    spoiled_.emplace(tensor, tensor.register_hook(spoil));
  }
  if (due(Kind::kill, step)) ::kill(::getpid(), SIGKILL);
  while (due(Kind::hang, step)) std::this_thread::sleep_for(std::chrono::seconds(1));
  if (due(Kind::desync, step)) channel_->barrier();
}

double FaultInjection::stretch(double own_s) const {
  double slept_s = 0;
  for (const Fault& fault : mine_) {
    if (fault.kind == Kind::slow) slept_s += own_s * (fault.factor - 1);
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(slept_s));
  return slept_s;
}

}  // namespace trestle::trainers
