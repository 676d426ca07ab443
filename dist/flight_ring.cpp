#include "dist/flight_ring.h"

#include "base/error.h"
#include "dist/json_text.h"

#include <algorithm>
#include <ctime>

namespace trestle::dist {
namespace {

using Clock = FlightRing::Clock;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::string utc(std::chrono::system_clock::time_point time) {
  using std::chrono::milliseconds;
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  const std::time_t seconds = std::chrono::system_clock::to_time_t(whole);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", text,
                     std::chrono::duration_cast<milliseconds>(time - whole).count());
}

}  // namespace

FlightRing::FlightRing(std::size_t entries, int world)
    : capacity_(entries), world_(static_cast<std::size_t>(world)) {
  TRESTLE_ASSERT(entries > 0, "a flight ring of no entries");
  entries_.reserve(capacity_);
}

void FlightRing::touch() {
  ++events_;
  last_event_ = Clock::now();
}

std::uint64_t FlightRing::queued(const OperationInfo& operation) {
  const std::lock_guard lock(mutex_);
  touch();
  Entry entry{.id = ++last_id_,
              .what = {.channel = operation.channel,
                       .channel_name = std::string(operation.channel_name),
                       .members = {},
                       .sequence = static_cast<std::int64_t>(operation.sequence),
                       .peer = operation.peer,
                       .kind = std::string(operation.kind),
                       .name = std::string(operation.name),
                       .bytes = operation.bytes,
                       .phase = place_.phase,
                       .step = place_.step},
              .queued = last_event_};
  if (operation.members.size() != world_)
    entry.what.members.assign(operation.members.begin(), operation.members.end());
  if (entries_.size() < capacity_) {
    entries_.push_back(std::move(entry));
  } else {
    Entry& place = entries_[(last_id_ - 1) % capacity_];
    if (!place.is_finished()) stranded_.emplace(place.id, std::move(place));
    place = std::move(entry);
  }
  return last_id_;
}

FlightRing::Entry* FlightRing::find(std::uint64_t id) {
  if (id == 0 || id > last_id_) return nullptr;
  Entry& place = entries_[(id - 1) % capacity_];
  if (place.id == id) return &place;
  const auto stranded = stranded_.find(id);
  return stranded == stranded_.end() ? nullptr : &stranded->second;
}

void FlightRing::started(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  touch();
  if (Entry* entry = find(id)) entry->started = last_event_;
}

void FlightRing::finished(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  touch();
  if (Entry* entry = find(id)) entry->finished = last_event_;
  stranded_.erase(id);
}

FlightRing::Place FlightRing::enter(Place place) {
  const std::lock_guard lock(mutex_);
  touch();
  return std::exchange(place_, place);
}

FlightRing::Place FlightRing::place() const {
  const std::lock_guard lock(mutex_);
  return place_;
}

std::uint64_t FlightRing::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

std::vector<FlightRing::Entry> FlightRing::entries_in_order() const {
  std::vector<Entry> all;
  all.reserve(stranded_.size() + entries_.size());
  for (const auto& [id, entry] : stranded_) all.push_back(entry);
  all.insert(all.end(), entries_.begin(), entries_.end());
  std::ranges::sort(all, {}, &Entry::id);
  return all;
}

RankActivity FlightRing::activity(std::size_t around) const {
  std::vector<Entry> all;
  RankActivity activity;
  const auto now = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    all = entries_in_order();
    activity.phase = place_.phase;
    activity.step = place_.step;
    activity.quiet_s = seconds(now - last_event_);
  }
  std::map<std::int64_t, std::vector<const Entry*>> finished, unfinished;
  for (const Entry& entry : all) {
    (entry.is_finished() ? finished : unfinished)[entry.what.channel].push_back(&entry);
  }
  const auto add = [&](const Entry& entry) {
    OperationState& operation = activity.operations.emplace_back(entry.what);
    operation.finished = entry.is_finished();
    operation.age_s = seconds(now - entry.queued);
    if (operation.finished) operation.finished_ago_s = seconds(now - entry.finished);
  };
  for (const auto& [channel, entries] : finished) {
    for (auto i = entries.size() - std::min(around, entries.size()); i < entries.size(); ++i)
      add(*entries[i]);
  }
  for (const auto& [channel, entries] : unfinished) {
    for (std::size_t i = 0; i < std::min(around, entries.size()); ++i) add(*entries[i]);
  }
  return activity;
}

void FlightRing::write_jsonl(const std::function<void(std::string_view line)>& sink) const {
  std::vector<Entry> all;
  {
    const std::lock_guard lock(mutex_);
    all = entries_in_order();
  }
  const auto since_made = [&](Clock::time_point time) {
    return time == Clock::time_point{} ? "null" : fmt::format("{:.6f}", seconds(time - made_));
  };
  for (const Entry& entry : all) {
    const auto queued_at =
        made_at_ +
        std::chrono::duration_cast<std::chrono::system_clock::duration>(entry.queued - made_);
    const OperationState& what = entry.what;
    sink(fmt::format(
        R"({{"sequence":{},"channel":{},"channel_name":{},"kind":{},"name":{},"bytes":{},)"
        R"("peer":{},"phase":"{}","step":{},"queued_at":"{}","queued_s":{},"started_s":{},)"
        R"("finished_s":{}}})"
        "\n",
        what.sequence, what.channel, json_text(what.channel_name), json_text(what.kind),
        json_text(what.name), what.bytes, what.peer, phase_name(what.phase), what.step,
        utc(queued_at), since_made(entry.queued), since_made(entry.started),
        since_made(entry.finished)));
  }
}

PhaseScope::PhaseScope(FlightRing* ring, Phase phase, std::int64_t step) : ring_(ring) {
  if (!ring_) return;
  before_ = ring_->place();
  ring_->enter({phase, step < 0 ? before_.step : step});
}

PhaseScope::~PhaseScope() {
  if (ring_) ring_->enter(before_);
}

}  // namespace trestle::dist
