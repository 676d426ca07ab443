#include "trainers/step_timeline.h"

#include "base/error.h"
#include "dist/wait_time.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <utility>

namespace trestle::trainers {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kBucketChannel = "gradients";
constexpr std::string_view kOtherLane = "other collectives";

std::string_view name_of(StepPhase phase) {
  switch (phase) {
    case StepPhase::data:
      return "data";
    case StepPhase::forward:
      return "forward";
    case StepPhase::backward:
      return "backward";
    case StepPhase::reduction:
      return "reduction";
    case StepPhase::norm:
      return "norm";
    case StepPhase::update:
      return "optimizer";
  }
  TRESTLE_ASSERT(false, "unknown phase");
  return {};
}

/// Seconds covered by at least one of the spans, within [begin, end).
double covered(std::vector<std::pair<double, double>> spans, double begin, double end) {
  std::ranges::sort(spans);
  double sum = 0, reached = begin;
  for (const auto& [from, to] : spans) {
    const double first = std::max(from, reached), last = std::min(to, end);
    if (last <= first) continue;
    sum += last - first;
    reached = last;
  }
  return sum;
}

double microseconds(double seconds) { return seconds * 1e6; }

Json lane_name(int process, std::size_t lane, std::string_view name) {
  return {{"ph", "M"},
          {"pid", process},
          {"tid", lane},
          {"name", "thread_name"},
          {"args", {{"name", name}}}};
}

}  // namespace

double StepTimeline::now() const {
  return std::chrono::duration<double>(Clock::now() - origin_).count();
}

void StepTimeline::start(Clock::time_point origin) {
  const std::lock_guard lock(mutex_);
  steps_.clear();
  // Operations that are under way keep their places.
  const double passed = std::chrono::duration<double>(origin - origin_).count();
  origin_ = origin;
  for (Operation& operation : operations_) {
    operation.queued_s -= passed;
    if (operation.started_s != 0) operation.started_s -= passed;
    if (operation.finished_s != 0) operation.finished_s -= passed;
  }
}

void StepTimeline::begin_step(Step step) {
  steps_.push_back({.step = step.value, .begin_s = now(), .end_s = 0, .waited_s = 0, .phases = {}});
  phase_is_open_ = false;
  waited_before_ = dist::waited_s();
}

void StepTimeline::close_phase() {
  const double waited = dist::waited_s() - waited_before_;
  if (phase_is_open_) {
    PhaseSpan& open = steps_.back().phases.back();
    open.end_s = now();
    open.waited_s = waited;
  } else {
    steps_.back().waited_s += waited;
  }
  waited_before_ = dist::waited_s();
}

void StepTimeline::enter(StepPhase phase) {
  close_phase();
  steps_.back().phases.push_back({.phase = phase, .begin_s = now(), .end_s = 0, .waited_s = 0});
  phase_is_open_ = true;
}

void StepTimeline::end_step() {
  close_phase();
  phase_is_open_ = false;
  steps_.back().end_s = now();
}

std::uint64_t StepTimeline::queued(const dist::OperationInfo& operation) {
  const std::lock_guard lock(mutex_);
  const bool is_bucket = operation.channel_name == kBucketChannel && !operation.name.empty();
  operations_.push_back({.lane = std::string(is_bucket ? operation.name : kOtherLane),
                         .kind = std::string(operation.kind),
                         .is_bucket = is_bucket,
                         .bytes = operation.bytes,
                         .queued_s = now(),
                         .started_s = 0,
                         .finished_s = 0});
  return operations_.size();
}

void StepTimeline::started(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  operations_[id - 1].started_s = now();
}

void StepTimeline::finished(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  operations_[id - 1].finished_s = now();
}

std::vector<StepTimes> StepTimeline::parts() const {
  std::vector<std::pair<double, double>> under_way;
  for (const Operation& operation : operations_) {
    if (operation.is_bucket && operation.finished_s != 0)
      under_way.emplace_back(operation.started_s, operation.finished_s);
  }
  std::vector<StepTimes> result;
  for (const StepSpan& step : steps_) {
    StepTimes parts;
    parts.step_s = step.end_s - step.begin_s;
    parts.exposed_s = step.waited_s;
    double waited_for_buckets = step.waited_s;
    for (const PhaseSpan& span : step.phases) {
      const double own_s = span.end_s - span.begin_s - span.waited_s;
      switch (span.phase) {
        case StepPhase::data:
          parts.data_wait_s += own_s;
          break;
        case StepPhase::forward:
          parts.forward_s += own_s;
          break;
        case StepPhase::backward:
          parts.backward_s += own_s;
          break;
        case StepPhase::update:
          parts.optimizer_s += own_s;
          break;
        case StepPhase::reduction:
        case StepPhase::norm:
          break;
      }
      parts.exposed_s += span.waited_s;
      // The norm's own small message, for which all wait, is no bucket's.
      if (span.phase != StepPhase::norm) waited_for_buckets += span.waited_s;
    }
    parts.other_s = parts.step_s - parts.forward_s - parts.backward_s - parts.optimizer_s -
                    parts.data_wait_s - parts.exposed_s;
    parts.communication_s = covered(under_way, step.begin_s, step.end_s);
    parts.hidden_s = std::max(0.0, parts.communication_s - waited_for_buckets);
    result.push_back(parts);
  }
  return result;
}

std::string StepTimeline::chrome_events(int rank, const std::string& process) const {
  std::map<std::string, std::size_t> lanes;  // in the order of their first operation
  std::vector<Json> events = {
      {{"ph", "M"}, {"pid", rank}, {"name", "process_name"}, {"args", {{"name", process}}}},
      lane_name(rank, 0, "step")};
  const auto add = [&](std::size_t lane, std::string_view name, std::string_view category,
                       double begin_s, double end_s, Json arguments) {
    events.push_back({{"ph", "X"},
                      {"pid", rank},
                      {"tid", lane},
                      {"name", name},
                      {"cat", category},
                      {"ts", microseconds(begin_s)},
                      {"dur", microseconds(end_s - begin_s)},
                      {"args", std::move(arguments)}});
  };
  for (const StepSpan& step : steps_) {
    add(0, fmt::format("step {}", step.step), "step", step.begin_s, step.end_s,
        {{"step", step.step}});
    for (const PhaseSpan& span : step.phases) {
      add(0, name_of(span.phase), "phase", span.begin_s, span.end_s,
          {{"step", step.step}, {"waited_us", microseconds(span.waited_s)}});
    }
  }
  for (const Operation& operation : operations_) {
    if (operation.finished_s == 0 || operation.queued_s < 0) continue;
    const auto [lane, is_new] = lanes.try_emplace(operation.lane, lanes.size() + 1);
    if (is_new) events.push_back(lane_name(rank, lane->second, operation.lane));
    add(lane->second, operation.kind, "communication", operation.started_s, operation.finished_s,
        {{"bytes", operation.bytes},
         {"queued_us", microseconds(operation.started_s - operation.queued_s)}});
  }
  std::string text;
  for (const Json& event : events) {
    if (!text.empty()) text += ",\n";
    text += event.dump();
  }
  return text;
}

std::string chrome_trace(const std::vector<std::string>& events_of_ranks) {
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n";
  bool is_first = true;
  for (const std::string& events : events_of_ranks) {
    if (!std::exchange(is_first, false)) text += ",\n";
    text += events;
  }
  return text + "\n]}\n";
}

}  // namespace trestle::trainers
